import { expect, it } from 'vitest'
import { resolveGenerationConfig, type GenerationOptions } from '../config/generation-config.js'
import { softmax } from '../sampling/index.js'
import { readGolden } from '../testing/golden.test.helper.js'
import { buildProcessors } from './index.js'

const kept = (probs: Float32Array): number[] => Array.from(probs.keys()).filter((i) => probs[i]! > 0)

it.each(['golden-fairy-gemma', 'golden-fairy-llama'])("equals the distributions of transformers' warpers on %s", (folder) => {
  const cases: Record<string, GenerationOptions> = {
    'warped.t0.7': { temperature: 0.7, topK: 0 },
    'warped.k40': { topK: 40 },
    'warped.p0.9': { topP: 0.9, topK: 0 },
    'warped.minp0.05': { minP: 0.05, topK: 0 },
    'warped.t0.8_k50_p0.95': { temperature: 0.8, topK: 50, topP: 0.95 },
  }
  const golden = readGolden(folder, ['batch.last_logits', ...Object.keys(cases)])
  for (const [name, options] of Object.entries(cases)) {
    const warpers = buildProcessors(resolveGenerationConfig({ call: { ...options, doSample: true } }), { eosTokenIds: [1], maxLength: 10 })
    golden['batch.last_logits']!.rows.forEach((logits, r) => {
      const scores = Float32Array.from(logits)
      for (const warp of warpers) warp(scores, { ids: [], promptLength: 0, sequence: 0 })
      const ours = softmax(scores)
      const theirs = golden[name]!.rows[r]!
      expect(kept(ours)).toEqual(kept(theirs))
      // A warped logit below 32 is rounded to half an ulp, 1e-6, which is the relative error of its probability.
      expect(Math.max(...ours.map((q, i) => Math.abs(q - theirs[i]!)))).toBeLessThan(1.2e-6)
    })
  }
})
