import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams } from '@octet-llm/kv-cache'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { GATED_ACTIVATIONS, PLAIN_ACTIVATIONS } from './layer-norm-mlp.js'
import { ReferenceLayer } from './reference-layer.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { denseContext, noise, oracleOptions, perturb, plainWeights } from './testing/layer.test.util.js'
import { difference, oracleLayer } from './testing/oracle.test.util.js'
import { TransformerLayer, type TransformerLayerOptions } from './transformer-layer.js'
import { Workspace } from './workspace.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

type Options = Omit<TransformerLayerOptions, 'device'>

/** Small on purpose: the oracle is plain loops. Std 0.2 gives attention scores that matter. */
const base: Options = { hiddenSize: 24, ffnHiddenSize: 40, numAttentionHeads: 4, kvChannels: 8, dtype: 'f32', seed: 3, initStd: 0.2 }
const llama: Options = { ...base, numGqaGroups: 2, normalization: 'RMSNorm', castBeforeWeight: true, activation: 'swiglu', bias: false, layernormEpsilon: 1e-6 }
const gemma3: Options = {
  ...base,
  numGqaGroups: 1,
  normalization: 'RMSNorm',
  zeroCenteredGamma: true,
  activation: 'geglu',
  bias: false,
  postNorms: true,
  qkNormType: 'RMSNorm',
  qkNormBeforeRope: true,
  softmaxScale: 0.4,
  windowSize: [3, 0],
}

const cases: [string, Options, boolean][] = [
  ['TransformerEngine defaults: LayerNorm, gelu, biases, no RoPE', base, false],
  ['defaults with RoPE', base, true],
  ['interleaved RoPE', { ...base, rotaryPosInterleaved: true }, true],
  ['Llama: GQA, RMSNorm, swiglu', llama, true],
  ['MQA', { ...llama, numGqaGroups: 1 }, true],
  ['MHA', { ...llama, numGqaGroups: 4 }, true],
  ['Gemma 1: 1 + w, geglu', { ...llama, zeroCenteredGamma: true, castBeforeWeight: false, activation: 'geglu' }, true],
  ['Gemma 2: post norms, soft cap, window', { ...gemma3, qkNormType: undefined, attnLogitSoftcapping: 1.5 }, true],
  ['Gemma 3: q/k norm before RoPE, window', gemma3, true],
  ['q/k RMSNorm after RoPE', { ...llama, qkNormType: 'RMSNorm' }, true],
  ['q/k LayerNorm before RoPE', { ...llama, qkNormType: 'LayerNorm', qkNormBeforeRope: true }, true],
  ['q/k LayerNorm after RoPE', { ...base, qkNormType: 'LayerNorm' }, true],
  ['q/k L2 norm after RoPE', { ...llama, qkNormType: 'L2Normalization', qkNormEps: 1e-3 }, true],
  ['q/k RMSNorm without RoPE', { ...llama, qkNormType: 'RMSNorm', qkNormBeforeRope: true }, false],
  ['only the MLP biased', { ...llama, bias: { qkv: false, proj: false, mlp: true } }, true],
  ['only attention biased', { ...llama, bias: { qkv: true, proj: true, mlp: false } }, true],
  ['only q, k, v biased', { ...llama, bias: { qkv: true, proj: false, mlp: false } }, true],
  ['hidden size not heads × channels', { ...llama, hiddenSize: 20, kvChannels: 16 }, true],
  ...[...PLAIN_ACTIVATIONS, ...GATED_ACTIVATIONS].filter((kind) => !kind.endsWith('Erf')).map((kind): [string, Options, boolean] => [`activation ${kind}`, { ...base, activation: kind }, false]),
]

const tokens = 9

/** What every implementation of a layer must give, from the float64 oracle. */
async function setUp(options: Options, withRope: boolean) {
  const layer = new TransformerLayer({ ...options, device })
  perturb(layer)
  const rope = withRope ? new RotaryPositionEmbedding({ device, dim: layer.selfAttention.core.headDim, base: 100 }) : undefined
  const x = noise(tokens * options.hiddenSize, 11)
  const want = oracleLayer(x, oracleOptions(layer.options, rope), await plainWeights(layer))
  return { layer, rope, x, want }
}

const bar = (want: ArrayLike<number>) => {
  let largest = 0
  for (let i = 0; i < want.length; i++) largest = Math.max(largest, Math.abs(want[i]!))
  // Sums of a few dozen float32 products, each rounded at 2^-24 of their size.
  return 40 * 2 ** -24 * largest
}

describe('TransformerLayer against the float64 oracle', () => {
  it.each(cases)('%s: fused and reference, without and with a cache, in chunks', async (_, options, withRope) => {
    const { layer, rope, x, want } = await setUp(options, withRope)
    const ctx = denseContext(device, tokens, rope)
    const input = Tensor.from(x, { shape: [tokens, options.hiddenSize], dtype: 'f32', device })
    for (const implementation of [layer, new ReferenceLayer(layer)]) {
      const dense = await implementation.run(input, ctx).toFloat32Array()
      expect(difference(dense, want).max).toBeLessThan(bar(want))

      const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 32, numHeadsKv: layer.selfAttention.core.kvHeads, headDimK: layer.selfAttention.core.headDim, dtype: 'f32', pageSize: 4 })
      const cached: number[] = []
      for (const [begin, end] of [[0, 5], [5, 6], [6, 9]] as const) {
        params.preStep(new Map([[0, end - begin]]))
        const chunk = input.rows(begin, end)
        const tables = rope?.forTokens(params.active.positions, [{ begin, count: end - begin }])
        const y = implementation.run(chunk, { workspace: ctx.workspace, inferenceParams: params, ...(tables === undefined ? {} : { rope: tables }) })
        cached.push(...(await y.toFloat32Array()))
      }
      expect(difference(cached, want).max).toBeLessThan(bar(want))
      params.dispose()
    }
    ctx.dispose()
    layer.dispose()
    rope?.dispose()
  })
})

describe('TransformerLayer.forward', () => {
  it('runs the layer of the README', async () => {
    const layer = new TransformerLayer({ hiddenSize: 64, ffnHiddenSize: 256, numAttentionHeads: 4, device, dtype: 'bf16', seed: 1 })
    const x = Tensor.from(noise(8 * 64, 5), { shape: [1, 8, 64], dtype: 'bf16', device })
    const y = layer.forward(x)
    expect([y.shape, y.dtype]).toEqual([[1, 8, 64], 'bf16'])
    const values = await y.toFloat32Array()
    expect(values.every(Number.isFinite)).toBe(true)
    expect(difference(values, await x.toFloat32Array()).rms).toBeGreaterThan(1e-3)
  })

  it('may write over its input', async () => {
    const { layer, rope, x, want } = await setUp(gemma3, true)
    const ctx = denseContext(device, tokens, rope)
    const input = Tensor.from(x, { shape: [tokens, 24], dtype: 'f32', device })
    expect(layer.run(input, ctx, input)).toBe(input)
    expect(difference(await input.toFloat32Array(), want).max).toBeLessThan(bar(want))
  })

  it('dynamic RoPE past the trained length turns by its own tables and stores at the sequence’s positions', async () => {
    const layer = new TransformerLayer({ ...llama, device })
    const results: number[][] = []
    for (const implementation of [layer, new ReferenceLayer(layer)]) {
      const rope = new RotaryPositionEmbedding({ device, dim: 8, base: 100, scaling: { type: 'dynamic', factor: 2 }, maxPositionEmbeddings: 4 })
      const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 16, numHeadsKv: 2, headDimK: 8, dtype: 'f32' })
      const out: number[] = []
      for (const [begin, end] of [[0, 6], [6, 7], [7, 9]] as const) {
        params.preStep(new Map([[0, end - begin]]))
        const x = Tensor.from(noise(9 * 24, 6).subarray(begin * 24, end * 24), { shape: [end - begin, 24], dtype: 'f32', device })
        const tables = rope.forTokens(params.active.positions, [{ begin, count: end - begin }])
        out.push(...(await implementation.run(x, { workspace: new Workspace(device), inferenceParams: params, rope: tables }).toFloat32Array()))
      }
      results.push(out)
    }
    expect(difference(results[0]!, results[1]!).max).toBeLessThan(1e-5)
  })

  it('allocates nothing in a step when it is given its buffers', async () => {
    const layer = new TransformerLayer({ ...llama, device })
    const workspace = new Workspace(device)
    const rope = new RotaryPositionEmbedding({ device, dim: 8 })
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 2, maxSequenceLength: 64, numHeadsKv: 2, headDimK: 8, dtype: 'f32' })
    const x = Tensor.from(noise(2 * 24, 1), { shape: [2, 24], dtype: 'f32', device })
    const step = () => {
      params.preStep(new Map([['a', 1], ['b', 1]]))
      layer.run(x, { workspace, inferenceParams: params, rope: rope.forTokens(params.active.positions, []) }, x)
    }
    rope.reserve(64)
    step()
    await device.synchronize()
    const before = device.memoryStats().allocations
    for (let i = 0; i < 5; i++) step()
    await device.synchronize()
    expect(device.memoryStats().allocations).toBe(before)
  })

  it('gives the same row to the bit whatever stands beside it', async () => {
    const layer = new TransformerLayer({ ...llama, device })
    const rotaryPosEmb = new RotaryPositionEmbedding({ device, dim: 8 })
    const one = noise(7 * 24, 21)
    const alone = await layer.forward(Tensor.from(one, { shape: [1, 7, 24], dtype: 'f32', device }), { rotaryPosEmb }).toFloat32Array()
    const batch = new Float32Array(3 * 9 * 24)
    batch.set(noise(9 * 24, 22), 0)
    batch.set(one, 10 * 24)
    batch.set(noise(9 * 24, 23), 2 * 9 * 24)
    const attentionMask = [new Array(9).fill(0), [1, 0, 0, 0, 0, 0, 0, 0, 1], new Array(9).fill(0)]
    const y = layer.forward(Tensor.from(batch, { shape: [3, 9, 24], dtype: 'f32', device }), { rotaryPosEmb, attentionMask, selfAttnMaskType: 'padding_causal' })
    const rows = await y.toFloat32Array()
    expect([...rows.subarray(10 * 24, 17 * 24)]).toEqual([...alone])
  })
})

describe('TransformerLayer validation', () => {
  const make = (options: Partial<TransformerLayerOptions>) => () => new TransformerLayer({ ...base, device, initialize: false, ...options })
  it.each([
    ['hiddenDropout', { hiddenDropout: 0.1 }],
    ['attentionDropout', { attentionDropout: 0.1 }],
    ['activation', { activation: 'tanh' as 'gelu' }],
    ['selfAttnMaskType', { selfAttnMaskType: 'diagonal' as 'causal' }],
    ['windowSize', { windowSize: [-2, 0] as const }],
    ['numGqaGroups', { numGqaGroups: 3 }],
    ['qkNormType', { qkNormType: 'BatchNorm' as 'RMSNorm' }],
    ['layerNumber', { layerNumber: 0 }],
    ['hiddenSize', { hiddenSize: 0 }],
    ['hiddenSize', { hiddenSize: 30, kvChannels: undefined }],
  ] as [string, Partial<TransformerLayerOptions>][])('refuses a bad %s', (argument, options) => {
    expect(make(options)).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument }))
  })

  it('names a wrong dtype, rank and width of x', () => {
    const layer = make({})()
    const x = (shape: number[], dtype: 'f32' | 'bf16' = 'f32') => Tensor.zeros(shape, { dtype, device })
    expect(() => layer.forward(x([1, 2, 24], 'bf16'))).toThrowError(expect.objectContaining({ code: 'DTYPE_MISMATCH' }))
    expect(() => layer.forward(x([2, 24]))).toThrowError(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    expect(() => layer.forward(x([1, 2, 23]))).toThrowError(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
  })
})
