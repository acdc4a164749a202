import { roundBf16 } from '@octet-llm/core'
import { parseConfig } from '@octet-llm/hf-loader/config'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { llamaInfo, llamaLayer, llamaRope } from './config.js'
import { TELlamaDecoderLayer } from './layer.js'
import { TELlamaForCausalLM } from './model.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const json = { model_type: 'llama', vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_attention_heads: 4, num_key_value_heads: 2, num_hidden_layers: 2, rms_norm_eps: 1e-5 }

describe('TELlamaDecoderLayer', () => {
  it('maps LlamaConfig to TransformerLayer', () => {
    expect(llamaLayer(parseConfig({ ...json, attention_bias: true, head_dim: 16 }), 1, { device, dtype: 'f32' })).toMatchObject({
      hiddenSize: 32, ffnHiddenSize: 48, numAttentionHeads: 4, numGqaGroups: 2, kvChannels: 16, layernormEpsilon: 1e-5, normalization: 'RMSNorm',
      castBeforeWeight: true, activation: 'swiglu', bias: { qkv: true, proj: true, mlp: false }, attnInputFormat: 'bshd', layerNumber: 2,
    })
    const layers = [0, 1, 2].map((i) => new TELlamaDecoderLayer(parseConfig(json), i, { device, initialize: false }))
    expect(layers.map((layer) => layer.options.layerNumber)).toEqual([1, 2, 3])
    expect(layers[0]!.options.dtype).toBe('bf16')
  })

  it.each([['silu', 'swiglu'], ['gelu_pytorch_tanh', 'geglu'], ['gelu', 'gegluErf'], ['relu', 'reglu']])('hidden_act %s is %s', (hidden_act, activation) => {
    expect(llamaLayer(parseConfig({ ...json, hidden_act }), 0, { device }).activation).toBe(activation)
  })

  it('takes a tuple and ignores what else Hugging Face’s loop passes', async () => {
    const layer = new TELlamaDecoderLayer(parseConfig(json), 0, { device, dtype: 'f32', seed: 1 })
    const x = Tensor.from(Float32Array.from({ length: 96 }, (_, i) => Math.sin(i)), { shape: [1, 3, 32], dtype: 'f32', device })
    const rotaryPosEmb = llamaRope(parseConfig(json), device)
    const want = [...(await layer.forward(x, { rotaryPosEmb }).toFloat32Array())]
    const extra = { rotaryPosEmb, positionIds: [[0, 1, 2]], useCache: true, outputAttentions: false, cachePosition: null }
    const got = layer.forward([x, null, 'presents'], extra)
    expect([...(await got.toFloat32Array())]).toEqual(want)
    expect(got.shape).toEqual([1, 3, 32])
  })

  it('rotates by the config’s own head dimension and theta', () => {
    const rope = llamaRope(parseConfig({ ...json, head_dim: 16, rope_theta: 500000 }), device)
    expect([rope.dim, rope.base, rope.maxPositionEmbeddings]).toEqual([16, 500000, 2048])
    const reach = (rope_scaling: object) => llamaInfo(parseConfig({ ...json, max_position_embeddings: 64, rope_scaling }), 'f32').maxPositionEmbeddings
    expect([reach({ rope_type: 'linear', factor: 4 }), reach({ rope_type: 'dynamic', factor: 4 })]).toEqual([64, 256])
    expect(llamaInfo(parseConfig({ ...json, eos_token_id: [7, 9] }), 'f32')).toMatchObject({ modelType: 'llama', headDim: 8, numKvHeads: 2, eosTokenIds: [7, 9], dtype: 'f32' })
  })
})

describe('TELlamaForCausalLM in bf16', () => {
  it('the final norm rounds the normalised value before the weight', async () => {
    const model = new TELlamaForCausalLM(parseConfig({ ...json, num_hidden_layers: 1 }), { device, dtype: 'bf16', seed: 1 })
    // A layer that adds nothing leaves the embedding to the norm.
    for (const part of ['self_attn.o_proj', 'mlp.down_proj']) {
      const weight = model.parameter(`model.layers.0.${part}.weight`)
      weight.write(new Float32Array(weight.shape[0]! * weight.shape[1]!))
    }
    const gamma = Float32Array.from({ length: 32 }, (_, i) => roundBf16(Math.sin(i + 1)))
    model.parameter('model.norm.weight').write(gamma)
    const ids = [3, 14, 15, 9]
    const { hiddenStates } = model.forward({ inputIds: [ids], hiddenStates: true })
    const got = await hiddenStates[1]!.toFloat32Array()
    const table = await model.parameter('model.embed_tokens.weight').toFloat32Array()
    let differs = false
    for (const [t, id] of ids.entries()) {
      const row = [...table.subarray(id * 32, (id + 1) * 32)]
      const inv = 1 / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / 32 + model.config.rmsNormEps)
      const want = row.map((v, i) => roundBf16(roundBf16(v * inv) * gamma[i]!))
      const other = row.map((v, i) => roundBf16(v * inv * gamma[i]!))
      expect([...got.subarray(t * 32, (t + 1) * 32)]).toEqual(want)
      differs ||= want.some((v, i) => v !== other[i])
    }
    expect(differs).toBe(true)
    await model.dispose()
  })
})
