import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams, type QkvFormat } from '@octet-llm/kv-cache'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import type { ForwardContext } from './context.js'
import { DotProductAttention } from './dot-product-attention.js'
import type { AttnMaskType, WindowSize } from './mask.js'
import { MultiheadAttention } from './multihead-attention.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { noise, oracleOptions, perturb, plainWeights } from './testing/layer.test.util.js'
import { attend, difference, oracleLayer } from './testing/oracle.test.util.js'
import { TransformerLayer, type TransformerLayerOptions } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const H = 4
const HKV = 2
const D = 8
const shape = { heads: H, kvHeads: HKV, headDim: D }

const f32 = (data: Float32Array, s: readonly number[]) => Tensor.from(data, { shape: s, dtype: 'f32', device })
const refusal = (fn: () => unknown): { code?: string; argument?: string } => {
  try {
    fn()
  } catch (error) {
    return error as { code: string }
  }
  return {}
}

/** [B, S, W] as [S, B, W]. */
const toSbhd = (x: Float32Array, b: number, s: number) => {
  const w = x.length / (b * s)
  return Float32Array.from(x, (_, i) => x[((Math.floor(i / w) % b) * s + Math.floor(i / (w * b))) * w + (i % w)]!)
}
const toBshd = (x: Float32Array, b: number, s: number) => toSbhd(x, s, b)

describe('DotProductAttention masks, [B, S] with pads, against the oracle', () => {
  const B = 3
  const S = 6
  // Row 0 is full, row 1 padded on the right, row 2 on the left.
  const pads = [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0]]
  const data = { q: noise(B * S * H * D, 1), k: noise(B * S * HKV * D, 2), v: noise(B * S * HKV * D, 3) }
  const arbitrary = Uint8Array.from(noise(B * S * S, 9), (x) => (x > 0.2 ? 1 : 0))

  const cases: [AttnMaskType, WindowSize][] = [
    ['no_mask', [-1, -1]], ['no_mask', [2, 1]], ['padding', [-1, -1]], ['causal', [-1, -1]], ['causal', [2, 0]],
    ['padding_causal', [-1, -1]], ['padding_causal', [1, 0]], ['causal_bottom_right', [-1, -1]],
    ['padding_causal_bottom_right', [-1, -1]], ['arbitrary', [-1, -1]],
  ]
  it.each(cases.flatMap(([mask, window]) => (['bshd', 'sbhd'] as const).map((format) => [mask, window, format] as const)))('%s %s %s', async (maskType, windowSize, qkvFormat) => {
    const padded = maskType.includes('padding')
    const core = new DotProductAttention({ numAttentionHeads: H, numGqaGroups: HKV, kvChannels: D, attnMaskType: maskType, windowSize, qkvFormat })
    const lay = (x: Float32Array) => (qkvFormat === 'bshd' ? x : toSbhd(x, B, S))
    const input = (x: Float32Array) => f32(lay(x), [...(qkvFormat === 'bshd' ? [B, S] : [S, B]), x.length / (B * S)])
    const attentionMask = maskType === 'arbitrary' ? Tensor.from(arbitrary, { shape: [B, 1, S, S], dtype: 'u8', device }) : padded ? pads : undefined
    const out = core.forward(input(data.q), input(data.k), input(data.v), attentionMask === undefined ? {} : { attentionMask })
    expect(out.shape).toEqual(qkvFormat === 'bshd' ? [B, S, H * D] : [S, B, H * D])
    const flat = await out.toFloat32Array()
    const got = qkvFormat === 'bshd' ? flat : toBshd(flat, B, S)

    for (let b = 0; b < B; b++) {
      const tokens = padded ? pads[b]!.flatMap((pad, i) => (pad === 0 ? [i] : [])) : Array.from({ length: S }, (_, i) => i)
      const take = (x: Float32Array, width: number) => Float64Array.from(tokens.flatMap((t) => [...x.subarray((b * S + t) * width, (b * S + t + 1) * width)]))
      const causal = maskType.includes('causal')
      const [left, right] = windowSize
      const visible = (i: number, j: number) =>
        (!causal || j <= i) && (left < 0 || j >= i - left) && (right < 0 || j <= i + right) && (maskType !== 'arbitrary' || arbitrary[(b * S + i) * S + j] === 0)
      const want = attend(take(data.q, H * D), take(data.k, HKV * D), take(data.v, HKV * D), { ...shape, visible })
      const mine = tokens.flatMap((t) => [...got.subarray((b * S + t) * H * D, (b * S + t + 1) * H * D)])
      expect(difference(mine, want).max).toBeLessThan(2e-6)
      for (let t = 0; t < S; t++) {
        if (tokens.includes(t)) continue
        expect(got.subarray((b * S + t) * H * D, (b * S + t + 1) * H * D).every((x) => x === 0)).toBe(true)
      }
    }
  })

  it('gives a query that sees nothing zeros, and one mask serves all sequences', async () => {
    const core = new DotProductAttention({ numAttentionHeads: 1, kvChannels: 2, attnMaskType: 'arbitrary' })
    const x = f32(noise(2 * 3 * 2, 5), [2, 3, 2])
    const attentionMask = Tensor.from(Uint8Array.of(1, 1, 1, 0, 1, 1, 1, 0, 1), { shape: [1, 3, 3], dtype: 'u8', device })
    const y = await core.forward(x, x, x, { attentionMask }).toFloat32Array()
    const v = await x.toFloat32Array()
    for (const b of [0, 6]) expect([...y.subarray(b, b + 6)]).toEqual([0, 0, v[b], v[b + 1], v[b + 2], v[b + 3]])
  })

  it('cuts thd into sequences by cuSeqlens', async () => {
    const core = new DotProductAttention({ numAttentionHeads: H, numGqaGroups: HKV, kvChannels: D, qkvFormat: 'thd' })
    const q = data.q.subarray(0, 7 * H * D)
    const k = data.k.subarray(0, 7 * HKV * D)
    const v = data.v.subarray(0, 7 * HKV * D)
    const got = await core.forward(f32(q, [7, H * D]), f32(k, [7, HKV * D]), f32(v, [7, HKV * D]), { cuSeqlens: [0, 4, 4, 7] }).toFloat32Array()
    const part = (x: Float32Array, w: number, a: number, b: number) => Float64Array.from(x.subarray(a * w, b * w))
    for (const [a, b] of [[0, 4], [4, 7]] as const) {
      const want = attend(part(q, H * D, a, b), part(k, HKV * D, a, b), part(v, HKV * D, a, b), shape)
      expect(difference(got.subarray(a * H * D, b * H * D), want).max).toBeLessThan(2e-6)
    }
  })

  it.each([
    ['arbitrary without a tensor', 'arbitrary', 'bshd', {}, 'attentionMask'],
    ['arbitrary with pads', 'arbitrary', 'bshd', { attentionMask: [[0, 0]] }, 'attentionMask'],
    ['causal with pads', 'causal', 'bshd', { attentionMask: [[0, 0]] }, 'attentionMask'],
    ['padding without pads', 'padding', 'bshd', {}, 'attentionMask'],
    ['pads in the middle', 'padding', 'bshd', { attentionMask: [[0, 1, 0]] }, 'attentionMask[0]'],
    ['offsets that end early', 'causal', 'thd', { cuSeqlens: [0, 2] }, 'cuSeqlens'],
    ['offsets that go back', 'causal', 'thd', { cuSeqlens: [0, 2, 1, 3] }, 'cuSeqlens'],
    ['pads in thd', 'padding', 'thd', { attentionMask: [[0, 0, 0]] }, 'attentionMask'],
    ['a bad window', 'causal', 'thd', { windowSize: [-3, 0] }, 'windowSize'],
  ] as [string, AttnMaskType, QkvFormat, ForwardContext, string][])('refuses %s', (_, attnMaskType, qkvFormat, ctx, argument) => {
    const core = new DotProductAttention({ numAttentionHeads: 1, kvChannels: 2, attnMaskType, qkvFormat })
    const x = f32(new Float32Array(6), qkvFormat === 'thd' ? [3, 2] : [1, 3, 2])
    const got = refusal(() => core.forward(x, x, x, ctx))
    expect(got).toMatchObject({ code: expect.stringMatching(/INVALID_ARGUMENT|SHAPE_MISMATCH/) as string, argument })
  })

  it('refuses pads of another shape and k of another length', () => {
    const core = new DotProductAttention({ numAttentionHeads: 1, kvChannels: 2, attnMaskType: 'padding' })
    const x = f32(new Float32Array(6), [1, 3, 2])
    expect(refusal(() => core.forward(x, x, x, { attentionMask: [[0, 0]] }))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'attentionMask' })
    expect(refusal(() => core.forward(x, f32(new Float32Array(4), [1, 2, 2]), x, { attentionMask: [[0, 0, 0]] }))).toMatchObject({ code: 'SHAPE_MISMATCH' })
  })
})

describe('layers with a cache in every format', () => {
  const options: Omit<TransformerLayerOptions, 'device'> = {
    hiddenSize: 20, ffnHiddenSize: 24, numAttentionHeads: H, numGqaGroups: HKV, kvChannels: D, normalization: 'RMSNorm', activation: 'swiglu', initStd: 0.2,
  }
  const lengths = [8, 5, 7]

  /** Full-sequence float64 results of three sequences. */
  async function setUp(attnInputFormat: QkvFormat) {
    const layer = new TransformerLayer({ ...options, device, attnInputFormat })
    perturb(layer)
    const rotaryPosEmb = new RotaryPositionEmbedding({ device, dim: D, base: 100 })
    const xs = lengths.map((n, b) => noise(n * 20, 30 + b))
    const weights = await plainWeights(layer)
    const wants = xs.map((x) => oracleLayer(x, oracleOptions(layer.options, rotaryPosEmb), weights))
    return { layer, rotaryPosEmb, xs, wants }
  }

  it.each(['bshd', 'sbhd', 'thd'] as const)('%s: uneven prefill in two chunks, then one token each, then two', async (format) => {
    const { layer, rotaryPosEmb, xs, wants } = await setUp(format)
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 3, maxSequenceLength: 8, numHeadsKv: HKV, headDimK: D, dtype: 'f32', pageSize: 2 })
    const done = [0, 0, 0]
    for (const counts of [[4, 1, 2], [1, 1, 2], [1, 1, 1], [2, 2, 2]]) {
      params.preStep(new Map(counts.map((n, b) => [b, n])))
      const width = Math.max(...counts)
      const rows = counts.map((n, b) => [...xs[b]!.subarray(done[b]! * 20, (done[b]! + n) * 20)])
      const padded = Float32Array.from(rows.flatMap((r) => [...r, ...new Array<number>(width * 20 - r.length).fill(9)]))
      const input =
        format === 'thd' ? f32(Float32Array.from(rows.flat()), [rows.flat().length / 20, 20])
        : format === 'bshd' ? f32(padded, [3, width, 20])
        : f32(toSbhd(padded, 3, width), [width, 3, 20])
      const y = layer.forward(input, { inferenceParams: params, rotaryPosEmb })
      expect(y.shape).toEqual(input.shape)
      const flat = await y.toFloat32Array()
      const got = format === 'sbhd' ? toBshd(flat, 3, width) : flat
      let packed = 0
      for (const [b, n] of counts.entries()) {
        const at = format === 'thd' ? packed * 20 : b * width * 20
        const want = wants[b]!.subarray(done[b]! * 20, (done[b]! + n) * 20)
        expect(difference(got.subarray(at, at + n * 20), want).max).toBeLessThan(1e-5)
        // Pads come back as zeros, not as what stood there.
        if (format !== 'thd') expect(got.subarray(at + n * 20, (b + 1) * width * 20).every((x) => x === 0)).toBe(true)
        done[b]! += n
        packed += n
      }
    }
  })

  it.each(['bshd', 'sbhd', 'thd'] as const)('%s: a call leaves nothing behind but its result, also when it fails', async (format) => {
    const { layer, rotaryPosEmb } = await setUp(format)
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 2, maxSequenceLength: 8, numHeadsKv: HKV, headDimK: D, dtype: 'f32', maxCtxLen: 4 })
    rotaryPosEmb.reserve(8)
    const x = Tensor.zeros(format === 'thd' ? [5, 20] : format === 'bshd' ? [2, 3, 20] : [3, 2, 20], { dtype: 'f32', device })
    params.preStep(new Map([[0, 3], [1, 2]]))
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    for (const ctx of [{ inferenceParams: params, rotaryPosEmb }, { rotaryPosEmb }]) layer.forward(x, ctx).dispose()
    expect(refusal(() => layer.forward(x, { inferenceParams: params, rotaryPosEmb, selfAttnMaskType: 'arbitrary' }))).toMatchObject({ code: 'NOT_SUPPORTED' })
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('te_gemma’s masks: padding_causal at prefill, padding at decode', async () => {
    const { layer, rotaryPosEmb, xs, wants } = await setUp('bshd')
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 8, numHeadsKv: HKV, headDimK: D, dtype: 'f32' })
    params.preStep(new Map([[0, 5]]))
    layer.forward(f32(xs[0]!.slice(0, 100), [1, 5, 20]), { inferenceParams: params, rotaryPosEmb, selfAttnMaskType: 'padding_causal' })
    params.preStep(new Map([[0, 1]]))
    const y = layer.forward(f32(xs[0]!.slice(100, 120), [1, 1, 20]), { inferenceParams: params, rotaryPosEmb, selfAttnMaskType: 'padding' })
    expect(difference(await y.toFloat32Array(), wants[0]!.subarray(100, 120)).max).toBeLessThan(1e-5)
  })

  it('a window that ends at the query’s own position is causal, whatever the mask is called', async () => {
    const { layer, rotaryPosEmb, xs, wants } = await setUp('bshd')
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 8, numHeadsKv: HKV, headDimK: D, dtype: 'f32' })
    params.preStep(new Map([[0, 8]]))
    const x = f32(xs[0]!, [1, 8, 20])
    const y = layer.forward(x, { inferenceParams: params, rotaryPosEmb, selfAttnMaskType: 'no_mask', windowSize: [-1, 0] })
    expect(difference(await y.toFloat32Array(), wants[0]!).max).toBeLessThan(1e-5)
  })

  it('refuses inputs that preStep did not announce, and masks that a cache cannot honour', () => {
    const layer = new TransformerLayer({ ...options, device, initialize: false })
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 2, maxSequenceLength: 8, numHeadsKv: HKV, headDimK: D, dtype: 'f32' })
    const x = (s: number[]) => Tensor.zeros(s, { dtype: 'f32', device })
    expect(refusal(() => layer.forward(x([1, 1, 20]), { inferenceParams: params }))).toMatchObject({ code: 'SHAPE_MISMATCH' })
    params.preStep(new Map([[0, 3]]))
    expect(refusal(() => layer.forward(x([2, 3, 20]), { inferenceParams: params }))).toMatchObject({ code: 'SHAPE_MISMATCH' })
    expect(refusal(() => layer.forward(x([1, 2, 20]), { inferenceParams: params }))).toMatchObject({ code: 'SHAPE_MISMATCH' })
    expect(refusal(() => layer.forward(x([1, 3, 20]), { inferenceParams: params, selfAttnMaskType: 'arbitrary' }))).toMatchObject({ code: 'NOT_SUPPORTED' })
    expect(refusal(() => layer.forward(x([1, 3, 20]), { inferenceParams: params, selfAttnMaskType: 'no_mask', windowSize: [2, 2] }))).toMatchObject({ code: 'NOT_SUPPORTED' })
  })
})

describe('MultiheadAttention alone', () => {
  it('projects without a norm of its own, and cross-checks the layer', async () => {
    const mha = new MultiheadAttention({ device, hiddenSize: 16, numAttentionHeads: 2, seed: 4, initStd: 0.3, bias: false })
    const x = noise(5 * 16, 40)
    const got = await mha.forward(f32(x, [1, 5, 16])).toFloat32Array()
    expect(mha.weights().map(([name]) => name)).toEqual(['qkv.weight', 'proj.weight'])
    const w = await mha.qkv.weight.tensor.toFloat32Array()
    const project = (rows: Float32Array) => Float64Array.from({ length: 5 * 16 }, (_, i) => {
      const [t, n] = [Math.floor(i / 16), i % 16]
      let sum = 0
      for (let c = 0; c < 16; c++) sum += x[t * 16 + c]! * rows[n * 16 + c]!
      return sum
    })
    const mixed = attend(project(w.subarray(0, 256)), project(w.subarray(256, 512)), project(w.subarray(512)), { heads: 2, kvHeads: 2, headDim: 8 })
    const proj = await mha.proj.weight.tensor.toFloat32Array()
    const want = Float64Array.from({ length: 80 }, (_, i) => {
      let sum = 0
      for (let c = 0; c < 16; c++) sum += mixed[Math.floor(i / 16) * 16 + c]! * proj[(i % 16) * 16 + c]!
      return sum
    })
    expect(difference(got, want).max).toBeLessThan(1e-5)
  })
})
