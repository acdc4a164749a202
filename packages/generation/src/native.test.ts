import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import type { DecoderForCausalLM } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { kernelOps } from './engine/kernel-ops.js'
import { generateTokens, type GenerateTokensOptions } from './generate.js'
import { buildProcessors } from './processors/index.js'
import { resolveGenerationConfig } from './config/generation-config.js'
import { argmax, logSoftmax, sampleToken } from './sampling/index.js'
import { hashedLogits, type LogitsOf } from './testing/fake-model.test.helper.js'
import { randomDecoder } from './testing/random-decoder.test.helper.js'
import { referenceBeams, referenceRow, type ReferenceOptions } from './testing/reference.test.helper.js'

const PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [10], [11, 12, 13, 14]]
let device: Device
let model: DecoderForCausalLM

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
  model = randomDecoder(device)
})
afterAll(async () => {
  await model.dispose()
  await device.dispose()
})

/** Logits by full forwards without a cache, fetched ahead for every prefix that a row of tokens has. */
async function fullForward(rows: readonly (readonly number[])[]): Promise<LogitsOf> {
  const known = new Map<string, Float32Array>()
  for (const ids of rows) {
    const logits = model.forward({ inputIds: [ids] })
    const values = await logits.toFloat32Array()
    logits.dispose()
    const V = model.info.vocabSize
    ids.forEach((_, t) => known.set(ids.slice(0, t + 1).join(), values.slice(t * V, (t + 1) * V)))
  }
  return (ids) => Float32Array.from(known.get(ids.join())!)
}

describe('on the CPU device', () => {
  it.each<[string, Partial<GenerateTokensOptions>]>([
    ['greedy', {}],
    ['greedy with penalties', { repetitionPenalty: 1.3, noRepeatNgramSize: 2 }],
    ['sampling on the device', { doSample: true, temperature: 1.5, topK: 20, topP: 0.9 }],
    ['sampling on the host', { doSample: true, temperature: 1.5, typicalP: 0.9 }],
  ])('%s: decode with the cache equals full forwards', async (_, mode) => {
    const { tokens } = await generateTokens(model, { inputIds: PROMPTS, maxNewTokens: 12, seed: 4, ...mode })
    const logitsOf = await fullForward(PROMPTS.map((p, b) => [...p, ...tokens[b]!]))
    PROMPTS.forEach((p, b) => {
      expect(tokens[b]).toEqual(referenceRow(logitsOf, p, { ...(mode as ReferenceOptions), maxNewTokens: 12, seed: 4, sequence: b }))
    })
  })

  it.each([{ isPaged: true, pageSize: 4 }, {}])('beams fork and reorder the real cache: %o', async (kvCache) => {
    const options = { maxNewTokens: 8, numBeams: 3, numReturnSequences: 3, eosTokenId: [1, 2] }
    const { tokens, scores } = await generateTokens(model, { inputIds: PROMPTS, ...options, kvCache })
    for (const [b, prompt] of PROMPTS.entries()) {
      // The reference asks for logits synchronously: collect what it lacks, then try again.
      const prefixes = new Map<string, Float32Array>()
      const V = model.info.vocabSize
      for (;;) {
        const missing: number[][] = []
        const beams = referenceBeams((ids) => {
          const found = prefixes.get(ids.join())
          if (found === undefined) missing.push([...ids])
          return Float32Array.from(found ?? new Float32Array(V))
        }, prompt, options)
        if (missing.length === 0) {
          expect(tokens.slice(3 * b, 3 * b + 3)).toEqual(beams.map((r) => r.tokens))
          beams.forEach((r, i) => expect(scores![3 * b + i]).toBeCloseTo(r.score, 4))
          break
        }
        const shortest = Math.min(...missing.map((ids) => ids.length))
        for (const ids of missing.filter((m) => m.length === shortest)) {
          prefixes.set(ids.join(), (await fullForward([ids]))(ids))
        }
      }
    }
  })

  it('gives a row the same tokens in any batch, with any chunks and pages', async () => {
    const common = { maxNewTokens: 10, seed: 2 }
    for (const mode of [{}, { doSample: true, temperature: 2 }, { numBeams: 2 }]) {
      const whole = await generateTokens(model, { ...common, ...mode, inputIds: PROMPTS })
      for (const other of [{ prefillChunkSize: 3 }, { kvCache: { isPaged: true, pageSize: 4, totalNumPages: 12 } }, { kvCache: { maxBatchSize: 2 } }]) {
        expect((await generateTokens(model, { ...common, ...mode, ...other, inputIds: PROMPTS })).tokens).toEqual(whole.tokens)
      }
      for (const [b, prompt] of PROMPTS.entries()) {
        expect((await generateTokens(model, { ...common, ...mode, inputIds: [prompt], sequenceIds: [b] })).tokens[0]).toEqual(whole.tokens[b])
      }
    }
  })

  it('leaves no memory behind, whether it ends or is aborted', async () => {
    const round = async (): Promise<number> => {
      for (const mode of [{}, { numBeams: 2 }, { doSample: true }, { repetitionPenalty: 2 }]) {
        await generateTokens(model, { inputIds: PROMPTS, maxNewTokens: 3, ...mode })
        const controller = new AbortController()
        const stoppingCriteria = [() => { controller.abort('cut'); return false }]
        const cut = generateTokens(model, { inputIds: PROMPTS, maxNewTokens: 9, ...mode, signal: controller.signal, stoppingCriteria })
        await expect(cut).rejects.toBe('cut')
      }
      await device.synchronize()
      return device.memoryStats().allocatedBytes
    }
    // The model keeps its workspace, grown by the first round.
    const before = await round()
    expect(await round()).toBe(before)
  })
})

describe('kernelOps', () => {
  const V = 300
  const rows = Array.from({ length: 40 }, (_, r) => hashedLogits(V, r)([r]))

  it('chooses what the pure functions choose', async () => {
    const ops = kernelOps(device)
    const x = Tensor.from(Float32Array.from(rows.flatMap((r) => [...r])), { shape: [rows.length, V], dtype: 'f32', device })
    expect([...await ops.argmax(x)]).toEqual(rows.map((r) => argmax(r)))
    const logProbs = ops.logSoftmax(x)
    const values = await logProbs.toFloat32Array()
    rows.forEach((row, r) => logSoftmax(row).forEach((want, v) => expect(values[r * V + v]).toBeCloseTo(want, 4)))
    logProbs.dispose()
    const some = ops.gather(x, Int32Array.of(5, 2))
    expect([...await ops.argmax(some)]).toEqual([5, 2].map((r) => argmax(rows[r]!)))
    const draws = rows.map((_, r) => ({ sequence: r % 3 === 0 ? 2 ** 32 - 1 - r : r, position: r * 7 }))
    for (const sampling of [
      { temperature: 1, topK: 0, topP: 1, minP: 0 }, { temperature: 0.7, topK: 40, topP: 0.9, minP: 0.02 }, { temperature: 2, topK: 0, topP: 0, minP: 0 },
      { temperature: 1, topK: 1, topP: 1, minP: 0 }, { temperature: 1.3, topK: 0, topP: 0.5, minP: 1 },
    ]) {
      const config = resolveGenerationConfig({ call: { ...sampling, doSample: true } })
      const warpers = buildProcessors(config, { eosTokenIds: [], maxLength: 1 })
      const seed = 2 ** 40 + 3
      const want = rows.map((row, r) => {
        const scores = Float32Array.from(row)
        for (const warp of warpers) warp(scores, { ids: [], promptLength: 0, sequence: 0 })
        return sampleToken(scores, { seed, ...draws[r]! })
      })
      expect([...await ops.sample(x, sampling, seed, draws)]).toEqual(want)
    }
    x.dispose()
    some.dispose()
  })
})
