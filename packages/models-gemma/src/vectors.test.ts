import { parseConfig } from '@octet-llm/hf-loader/config'
import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TEGemmaForCausalLM } from './model.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

/** The tiny models whose numbers Hugging Face printed: every parameter is 0.2 sin(0.37 j + k). */
const base = {
  vocab_size: 16, hidden_size: 8, intermediate_size: 12, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 4,
  num_hidden_layers: 2, max_position_embeddings: 64, rms_norm_eps: 1e-6, tie_word_embeddings: true,
}
const cases = [
  { config: { ...base, model_type: 'gemma', hidden_act: 'gelu_pytorch_tanh' }, logits: [0.736506, -0.822537, 0.881519, -0.911512], loss: 2.8305287 },
  { config: { ...base, model_type: 'gemma2', sliding_window: 3, query_pre_attn_scalar: 8 }, logits: [0.100309, -0.109043, 0.114192, -0.115585], loss: 2.7500484 },
  {
    config: {
      ...base,
      model_type: 'gemma3_text',
      sliding_window: 3,
      query_pre_attn_scalar: 8,
      layer_types: ['sliding_attention', 'full_attention'],
      rope_parameters: {
        full_attention: { rope_type: 'linear', factor: 8, rope_theta: 1e6 },
        sliding_attention: { rope_type: 'default', rope_theta: 1e4 },
      },
    },
    logits: [0.142677, -0.183352, 0.217998, -0.245474],
    loss: 2.7444127,
  },
]
const ids = [2, 5, 7, 3, 11, 4]

describe.each(cases)("Hugging Face's numbers for $config.model_type", ({ config, logits: want, loss }) => {
  it.each(['te', 'reference'] as const)('logits and loss, %s layers', async (decoderLayer) => {
    const model = new TEGemmaForCausalLM(parseConfig(config), { device, dtype: 'f32', decoderLayer, initialize: false })
    const names = model.slots().map((slot) => slot.name).sort()
    for (const [k, name] of names.entries()) {
      const target = model.parameter(name)
      const size = target.shape.reduce((n, d) => n * d, 1)
      target.write(Float32Array.from({ length: size }, (_, j) => 0.2 * Math.sin(0.37 * j + k)))
    }
    const logits = await model.forward({ inputIds: [ids] }).toFloat32Array()
    for (const [i, x] of want.entries()) expect(Math.abs(logits[5 * 16 + i]! - x)).toBeLessThan(1e-6)
    let sum = 0
    for (let t = 0; t < 5; t++) {
      const row = [...logits.subarray(t * 16, (t + 1) * 16)]
      sum += Math.log(row.reduce((total, x) => total + Math.exp(x), 0)) - row[ids[t + 1]!]!
    }
    expect(Math.abs(sum / 5 - loss)).toBeLessThan(1e-6)
    await model.dispose()
  })
})
