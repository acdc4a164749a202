import { parseConfig, type ModelConfig } from '@octet-llm/hf-loader/config'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TELlamaForCausalLM } from './model.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

/** The tiny model whose numbers Hugging Face printed: every parameter is 0.2 sin(0.37 j + k), norms one more. */
const config: ModelConfig = parseConfig({
  model_type: 'llama', vocab_size: 16, hidden_size: 8, intermediate_size: 12, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 4,
  num_hidden_layers: 2, max_position_embeddings: 64, rope_theta: 10000, rms_norm_eps: 1e-6, tie_word_embeddings: false, hidden_act: 'silu',
})
const ids = [2, 5, 7, 3, 11, 4]

function tiny(decoderLayer: 'te' | 'reference'): TELlamaForCausalLM {
  const model = new TELlamaForCausalLM(config, { device, dtype: 'f32', decoderLayer, initialize: false })
  const names = model.slots().map((slot) => slot.name).sort()
  for (const [k, name] of names.entries()) {
    const target = model.parameter(name)
    const size = target.shape.reduce((n, d) => n * d, 1)
    target.write(Float32Array.from({ length: size }, (_, j) => 0.2 * Math.sin(0.37 * j + k) + (name.includes('norm') ? 1 : 0)))
  }
  return model
}

describe.each(['te', 'reference'] as const)("Hugging Face's numbers, %s layers", (decoderLayer) => {
  it('logits and loss', async () => {
    const model = tiny(decoderLayer)
    const logits = await model.forward({ inputIds: [ids] }).toFloat32Array()
    const want = [0.467606, -0.456564, 0.430507, -0.390292]
    for (const [i, x] of want.entries()) expect(Math.abs(logits[5 * 16 + i]! - x)).toBeLessThan(1e-6)
    expect(Math.abs(crossEntropy(logits, ids, 16) - 3.0511785)).toBeLessThan(1e-6)
    await model.dispose()
  })

  it('greedy and beam search', async () => {
    const model = tiny(decoderLayer)
    const greedy = await model.generate({ inputIds: [ids], maxNewTokens: 5, ignoreEos: true })
    expect(greedy.sequences[0]!.slice(ids.length)).toEqual([0, 13, 7, 14, 10])
    const beams = await model.generate({ inputIds: [ids], maxNewTokens: 5, numBeams: 3, ignoreEos: true })
    expect(beams.sequences[0]!.slice(ids.length)).toEqual([15, 11, 3, 14, 10])
    expect(Math.abs(beams.scores![0]! + 2.286361)).toBeLessThan(1e-5)
    await model.dispose()
  })

  it('decodes with both phases as with generate', async () => {
    const model = tiny(decoderLayer)
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 16 })
    const i32 = (data: number[]) => Tensor.from(Int32Array.from(data), { shape: [data.length], dtype: 'i32', device })
    params.preStep(new Map([[0, ids.length]]))
    const logits = await model.contextPhase().forward(i32(ids), params).toFloat32Array()
    expect(logits).toHaveLength(16)
    let next = i32([logits.indexOf(Math.max(...logits))])
    const decode = model.generationPhase()
    const tokens: number[] = [...(await next.toInt32Array())]
    for (let step = 0; step < 4; step++) {
      params.preStep(new Map([[0, 1]]))
      next = decode.forward(next, params)
      tokens.push(...(await next.toInt32Array()))
    }
    expect(tokens).toEqual([0, 13, 7, 14, 10])
    params.dispose()
    await model.dispose()
  })
})

/** Mean negative log-likelihood of each next token, in float64. */
function crossEntropy(logits: Float32Array, labels: readonly number[], vocab: number): number {
  let sum = 0
  for (let t = 0; t + 1 < labels.length; t++) {
    const row = [...logits.subarray(t * vocab, (t + 1) * vocab)]
    sum += Math.log(row.reduce((total, x) => total + Math.exp(x), 0)) - row[labels[t + 1]!]!
  }
  return sum / (labels.length - 1)
}
