import { roundBf16 } from '@octet-llm/core'
import { parseConfig } from '@octet-llm/hf-loader/config'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { embeddingScale, gemmaInfo, gemmaLayer, gemmaRopes } from './config.js'
import { TEGemmaDecoderLayer } from './layer.js'
import { TEGemmaForCausalLM } from './model.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const json = { vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, num_hidden_layers: 6 }
const config = (extra: object) => parseConfig({ ...json, ...extra })

describe('TEGemmaDecoderLayer', () => {
  it('maps GemmaConfig to TransformerLayer', () => {
    expect(gemmaLayer(config({ model_type: 'gemma', rms_norm_eps: 1e-5 }), 3, { device })).toMatchObject({
      hiddenSize: 32, ffnHiddenSize: 48, numAttentionHeads: 4, numGqaGroups: 2, kvChannels: 16, layernormEpsilon: 1e-5, normalization: 'RMSNorm',
      zeroCenteredGamma: true, activation: 'geglu', bias: { qkv: false, proj: false, mlp: false }, attnInputFormat: 'bshd', softmaxScale: 0.25,
      postNorms: false, windowSize: [-1, -1], layerNumber: 4,
    })
  })

  it('Gemma 2: every other layer slides, scores are scaled by query_pre_attn_scalar and capped', () => {
    const c = config({ model_type: 'gemma2', sliding_window: 8, query_pre_attn_scalar: 64 })
    const layers = [0, 1, 2].map((i) => gemmaLayer(c, i, { device }))
    expect(layers.map((o) => o.windowSize)).toEqual([[7, 0], [-1, -1], [7, 0]])
    expect(layers[0]).toMatchObject({ softmaxScale: 0.125, attnLogitSoftcapping: 50, postNorms: true })
    expect(layers[0]!.qkNormType).toBeUndefined()
    expect(new Set(gemmaRopes(c, device)).size).toBe(1)
  })

  it('Gemma 3: five of six layers slide with rotary frequencies of their own, q and k are normed before RoPE', () => {
    const c = config({ model_type: 'gemma3_text', sliding_window: 8, rope_scaling: { rope_type: 'linear', factor: 8 }, attn_logit_softcapping: 50 })
    expect([0, 1, 2, 3, 4, 5].map((i) => gemmaLayer(c, i, { device }).windowSize![0])).toEqual([7, 7, 7, 7, 7, -1])
    const options = gemmaLayer(c, 0, { device })
    expect(options).toMatchObject({ qkNormType: 'RMSNorm', qkNormBeforeRope: true, qkNormEps: 1e-6, postNorms: true })
    expect(options.attnLogitSoftcapping).toBeUndefined()
    const ropes = gemmaRopes(c, device)
    expect(ropes.map((rope) => [rope.base, rope.scaling.type])).toEqual([...Array.from({ length: 5 }, () => [1e4, 'default']), [1e6, 'linear']])
    expect(new Set(ropes).size).toBe(2)
  })

  it('reaches as far as its rotary embedding is stretched', () => {
    const reach = (rope_scaling: object) => gemmaInfo(config({ model_type: 'gemma', max_position_embeddings: 64, rope_scaling }), 'f32').maxPositionEmbeddings
    expect([reach({ rope_type: 'linear', factor: 4 }), reach({ rope_type: 'dynamic', factor: 4 })]).toEqual([64, 256])
  })

  it('rounds the embedding’s factor as Hugging Face does', () => {
    const scale = (hidden_size: number, dtype: 'f32' | 'bf16') => embeddingScale(parseConfig({ model_type: 'gemma', hidden_size }), dtype)
    expect([scale(2048, 'bf16'), scale(3072, 'bf16'), scale(192, 'bf16'), scale(192, 'f32')]).toEqual([45.25, 55.5, 13.875, Math.fround(Math.sqrt(192))])
  })

  it('takes a tuple and ignores what else Hugging Face’s loop passes', async () => {
    const c = config({ model_type: 'gemma' })
    const layer = new TEGemmaDecoderLayer(c, 0, { device, dtype: 'f32', seed: 1 })
    const x = Tensor.from(Float32Array.from({ length: 96 }, (_, i) => Math.sin(i)), { shape: [1, 3, 32], dtype: 'f32', device })
    const [rotaryPosEmb] = gemmaRopes(c, device)
    const want = [...(await layer.forward(x, { rotaryPosEmb: rotaryPosEmb! }).toFloat32Array())]
    const extra = { rotaryPosEmb: rotaryPosEmb!, positionIds: null, useCache: false, outputAttentions: true }
    expect([...(await layer.forward([x], extra).toFloat32Array())]).toEqual(want)
  })

  it('refuses a Llama config', () => {
    expect(() => new TEGemmaForCausalLM(parseConfig({ model_type: 'llama' }), { device, initialize: false })).toThrowError(expect.objectContaining({ code: 'UNSUPPORTED_MODEL' }))
  })
})

describe('TEGemmaForCausalLM in bf16', () => {
  it('the final norm rounds once, and the embedding after its rounded factor', async () => {
    const model = new TEGemmaForCausalLM(parseConfig({ ...json, model_type: 'gemma', num_hidden_layers: 1 }), { device, dtype: 'bf16', seed: 1 })
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
      const row = [...table.subarray(id * 32, (id + 1) * 32)].map((v) => roundBf16(v * roundBf16(Math.sqrt(32))))
      const inv = 1 / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / 32 + model.config.rmsNormEps)
      const want = row.map((v, i) => roundBf16(v * inv * (1 + gamma[i]!)))
      const other = row.map((v, i) => roundBf16(roundBf16(v * inv) * (1 + gamma[i]!)))
      expect([...got.subarray(t * 32, (t + 1) * 32)]).toEqual(want)
      differs ||= want.some((v, i) => v !== other[i])
    }
    expect(differs).toBe(true)
    await model.dispose()
  })
})
