import { E4M3_TO_F32, f32ToE4m3, roundBf16 } from '@octet-llm/core'
import { DelayedScaling, Float8CurrentScaling, FP8_MAX, inverseScale, scaleFromAmax } from '@octet-llm/fp8-recipe'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams, type KvLayerScales } from '@octet-llm/kv-cache'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { DecoderForCausalLM } from '../decoder.js'
import { DotProductAttention } from '../dot-product-attention.js'
import { RotaryPositionEmbedding } from '../rotary-position-embedding.js'
import { attend } from '../testing/oracle.test.util.js'
import { noiseBf16 } from '../testing/layer.test.util.js'
import { TransformerLayer } from '../transformer-layer.js'
import { autocast } from './autocast.js'
import { calibrate } from './calibration.js'
import { resolveFp8, type Fp8Inference } from './inference.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

type Values = Float32Array<ArrayBufferLike>
type DType = 'f32' | 'bf16'

const TOKENS = 9
/** Float32 leaves the order of summation; bf16 has TransformerEngine's bars for attention. */
const BARS = { f32: [1e-5, 1e-5], bf16: [1e-2, 1e-3] } as const

const stored = (x: Values, dtype: DType): Values => (dtype === 'bf16' ? x.map(roundBf16) : x)
const code = (x: number) => E4M3_TO_F32[f32ToE4m3(x)]!

/** Values under one scale from their largest magnitude. */
function byAmax(x: Values): Values {
  const scale = scaleFromAmax(x.reduce((m, v) => Math.max(m, Math.abs(v)), 0), FP8_MAX.e4m3)
  return x.map((v) => code(Math.fround(v * scale)) * inverseScale(scale))
}

function byTokenAndHead(x: Values, d: number): Values {
  const out = new Float32Array(x.length)
  for (let i = 0; i < x.length; i += d) out.set(byAmax(x.subarray(i, i + d)), i)
  return out
}
/** Values under the scales of an FP8 cache. */
const byHead = (x: Values, d: number, scales: Float32Array): Values => x.map((v, i) => {
  const scale = scales[Math.floor(i / d) % scales.length]!
  return code(Math.fround(v * Math.fround(1 / scale))) * scale
})

interface Sizes {
  readonly d: number
  readonly heads: number
  readonly kvHeads: number
}
const SIZES: readonly Sizes[] = [{ d: 32, heads: 4, kvHeads: 4 }, { d: 64, heads: 4, kvHeads: 2 }, { d: 128, heads: 4, kvHeads: 1 }, { d: 256, heads: 2, kvHeads: 1 }]
const SCALES = [undefined, 'calibrated'] as const

/** q, k and v of one sequence, of different ranges; a scale of another part, head or token would show. */
const data = ({ d, heads, kvHeads }: Sizes) => ({
  q: noiseBf16(TOKENS * heads * d, 1).map((v, i) => roundBf16(v * 3 ** (Math.floor(i / d) % 3))),
  k: noiseBf16(TOKENS * kvHeads * d, 2).map((v) => roundBf16(2.5 * v)),
  v: noiseBf16(TOKENS * kvHeads * d, 3),
})
const scalesOf = ({ kvHeads }: Sizes): KvLayerScales => ({ k: Float32Array.from({ length: kvHeads }, (_, h) => 0.007 + 0.002 * h), v: Float32Array.from({ length: kvHeads }, (_, h) => 0.003 + 0.001 * h) })
const tensor = (x: Values, width: number, dtype: DType) => Tensor.from(x, { shape: [x.length / width, width], dtype, device })

function expectNear(got: ArrayLike<number>, want: ArrayLike<number>, [absolute, relative]: readonly [number, number]): void {
  expect(got.length).toBe(want.length)
  const excess = Array.from(want, (value, i) => Math.abs(got[i]! - value) / (absolute + relative * Math.abs(value)))
  expect(excess.every((e) => e <= 1)).toBe(true)
}

const fp8 = resolveFp8(new Float8CurrentScaling({ fp8Dpa: true }), false)!
const OPTIONS = { softcap: 4, left: 5 }

describe.each(SIZES.flatMap((size) => SCALES.flatMap((scales) => (['f32', 'bf16'] as const).map((dtype) => ({ ...size, scales, dtype })))))('fp8Dpa: D $d, H $heads, Hkv $kvHeads, scales $scales, $dtype', ({ scales, dtype, ...size }) => {
  const { d, heads, kvHeads } = size
  const kvScales = scales === undefined ? undefined : scalesOf(size)
  const core = () => new DotProductAttention({ numAttentionHeads: heads, numGqaGroups: kvHeads, kvChannels: d, qkvFormat: 'thd', windowSize: [OPTIONS.left, 0], attnLogitSoftcapping: OPTIONS.softcap, fp8 })
  const oracle = (): Float64Array => {
    const { q, k, v } = data(size)
    const ones = { k: new Float32Array(kvHeads).fill(1), v: new Float32Array(kvHeads).fill(1) }
    const { k: kScale, v: vScale } = kvScales ?? ones
    const round = (x: Values) => Float64Array.from(stored(x, dtype))
    return attend(round(byTokenAndHead(q, d)), round(byHead(k, d, kScale)), round(byHead(v, d, vScale)), { heads, kvHeads, headDim: d, softcap: OPTIONS.softcap, visible: (i, j) => j <= i && j >= i - OPTIONS.left })
  }

  it('is attention over the quantized values, without a cache and with one, in any chunks', async () => {
    const part = core()
    expect(part.fp8Dpa).toBe(true)
    part.setKvScales(kvScales, device)
    const { q, k, v } = data(size)
    const want = oracle()
    const inputs = [tensor(q, heads * d, dtype), tensor(k, kvHeads * d, dtype), tensor(v, kvHeads * d, dtype)] as const
    const dense = part.forward(...inputs)
    expectNear(await dense.toFloat32Array(), want, BARS[dtype])
    // What the cache de-quantizes is not rounded to bf16 first: that is within the bar.
    for (const chunk of [TOKENS, 1, 4]) {
      const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 16, numHeadsKv: kvHeads, headDimK: d, dtype: 'e4m3', isPaged: true, pageSize: 4, qkvFormat: 'thd', ...(kvScales === undefined ? {} : { kvScales: [kvScales] }) })
      const got: number[] = []
      for (let at = 0; at < TOKENS; at += chunk) {
        const count = Math.min(chunk, TOKENS - at)
        params.preStep(new Map([[0, count]]))
        const rows = inputs.map((t) => t.rows(at, at + count)) as [Tensor, Tensor, Tensor]
        const y = part.forward(...rows, { inferenceParams: params })
        got.push(...(await y.toFloat32Array()))
        for (const t of [...rows, y]) t.dispose()
      }
      expectNear(got, want, BARS[dtype])
      params.dispose()
    }
    for (const t of [...inputs, dense, part]) t.dispose()
  })

  it('under an autocast of current scaling: one scale for queries, keys and values together', async () => {
    const part = new DotProductAttention({ numAttentionHeads: heads, numGqaGroups: kvHeads, kvChannels: d, qkvFormat: 'thd' })
    const { q, k, v } = data(size)
    const all = byAmax(Float32Array.of(...q, ...k, ...v))
    const [qa, ka] = [q.length, q.length + k.length]
    const round = (x: Values) => Float64Array.from(stored(x, dtype))
    const want = attend(round(all.subarray(0, qa)), round(all.subarray(qa, ka)), round(all.subarray(ka)), { heads, kvHeads, headDim: d })
    const inputs = [tensor(q, heads * d, dtype), tensor(k, kvHeads * d, dtype), tensor(v, kvHeads * d, dtype)] as const
    const plain = await part.forward(...inputs).toFloat32Array()
    const y = autocast({ recipe: new Float8CurrentScaling({ fp8Dpa: true }) }, (ctx) => part.forward(...inputs, { fp8: ctx }))
    expectNear(await y.toFloat32Array(), want, BARS[dtype])
    const quiet = new DotProductAttention({ numAttentionHeads: heads, numGqaGroups: kvHeads, kvChannels: d, qkvFormat: 'thd', fp8 })
    expect(await quiet.forward(...inputs, { fp8: { enabled: false, calibrating: false } }).toFloat32Array()).toEqual(plain)
    quiet.dispose()
    // Without the option, or while it is off, nothing is quantized.
    for (const options of [{ recipe: new Float8CurrentScaling() }, { recipe: new Float8CurrentScaling({ fp8Dpa: true }), enabled: false }]) {
      expect(await autocast(options, (ctx) => part.forward(...inputs, { fp8: ctx })).toFloat32Array()).toEqual(plain)
    }
    for (const t of [...inputs, y]) t.dispose()
  })
})

describe('a decoder with fp8Dpa', () => {
  const [V, H, KV, D] = [61, 4, 2, 16]
  const make = (inference: Fp8Inference | undefined) => {
    const layers = [1, 2].map((layerNumber) => new TransformerLayer({
      device, dtype: 'f32', fp8: inference, hiddenSize: 32, ffnHiddenSize: 48, numAttentionHeads: H, numGqaGroups: KV, kvChannels: D, normalization: 'RMSNorm', activation: 'swiglu', bias: false, initStd: 0.3, seed: 4, layerNumber,
    }))
    const rope = new RotaryPositionEmbedding({ device, dim: D })
    return new DecoderForCausalLM({
      device, dtype: 'f32', fp8: inference, seed: 4, initStd: 0.5, layers, ropes: [rope, rope], layernormEpsilon: 1e-6, tieWordEmbeddings: true, weightMap: [],
      info: { modelType: 'test', vocabSize: V, hiddenSize: 32, numLayers: 2, numHeads: H, numKvHeads: KV, headDim: D, maxPositionEmbeddings: 64, dtype: 'f32', bosTokenId: null, eosTokenIds: [], padTokenId: null },
    })
  }
  const ids = (n: number, seed: number) => Array.from({ length: n }, (_, i) => (i * 7 + seed * 13) % V)
  const rows = [ids(11, 1), ids(5, 2), ids(8, 3)]
  /** Last logits of each row, its prompt taken in chunks. */
  async function prefill(model: DecoderForCausalLM, prompts: readonly (readonly number[])[], chunk = Infinity): Promise<number[][]> {
    const params = model.createInferenceParams({ maxBatchSize: prompts.length, maxSequenceLength: 16, isPaged: true, pageSize: 4 })
    const out: number[][] = prompts.map(() => [])
    for (let at = 0; prompts.some((p) => at < p.length); at += chunk) {
      const parts = prompts.map((p) => p.slice(at, at + chunk))
      params.preStep(new Map(parts.map((part, b) => [b, part.length])))
      const tokens = Tensor.from(Int32Array.from(parts.flat()), { shape: [parts.flat().length], dtype: 'i32', device })
      const logits = model.step(tokens, params)
      const values = await logits.toFloat32Array()
      for (const [b, part] of parts.entries()) if (part.length > 0) out[b] = [...values.subarray(b * V, (b + 1) * V)]
      for (const t of [tokens, logits]) t.dispose()
      if (chunk === Infinity) break
    }
    params.dispose()
    return out
  }

  it('takes an FP8 cache by itself; a token depends on its own past alone, to the bit, and forward agrees with the cache', async () => {
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    const plain = make(undefined)
    const calibration = await calibrate(plain, [{ inputIds: [rows[0]!] }])
    const model = make(fp8)
    const uncalibrated = await prefill(model, rows)
    model.finishLoading(calibration)
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 8 })
    expect(params.dtype).toBe('e4m3')
    params.dispose()
    for (const kvDtype of ['bf16', 'f32'] as const) {
      expect(() => model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 8, kvDtype })).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'kvDtype' }))
    }
    const whole = await prefill(model, rows)
    expect(whole).not.toEqual(uncalibrated)
    for (const chunk of [1, 3]) expect(await prefill(model, rows, chunk)).toEqual(whole)
    for (const [b, row] of rows.entries()) expect(await prefill(model, [row])).toEqual([whole[b]])
    const largest = (a: readonly number[], b: readonly number[]) => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))
    for (const [b, row] of rows.entries()) {
      const logits = model.forward({ inputIds: [row] })
      const last = [...(await logits.toFloat32Array()).slice(-V)]
      logits.dispose()
      expect(largest(last, whole[b]!)).toBeLessThan(1e-3)
    }
    // It does quantize: with the same FP8 weights alone the logits are further away.
    const without = make(resolveFp8('current', false))
    without.finishLoading(calibration)
    const logits = without.forward({ inputIds: [rows[0]!] })
    expect(largest([...(await logits.toFloat32Array()).slice(-V)], whole[0]!)).toBeGreaterThan(1e-2)
    for (const owner of [logits, plain, model, without]) await owner.dispose()
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })
})

describe('what fp8Dpa refuses', () => {
  const refusal = (fn: () => unknown) => {
    try {
      fn()
    } catch (error) {
      return error
    }
    return undefined
  }

  it('a cache that is not in FP8', () => {
    const part = new DotProductAttention({ numAttentionHeads: 2, kvChannels: 8, qkvFormat: 'thd', fp8 })
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 4, numHeadsKv: 2, headDimK: 8, dtype: 'bf16', qkvFormat: 'thd' })
    params.preStep(new Map([[0, 1]]))
    const x = Tensor.zeros([1, 16], { dtype: 'f32', device })
    expect(refusal(() => part.forward(x, x, x, { inferenceParams: params }))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'inferenceParams', received: 'bf16' })
    for (const t of [x, params, part]) t.dispose()
  })

  it('FP8 across the whole block, and delayed scales that nobody keeps', () => {
    for (const Recipe of [DelayedScaling, Float8CurrentScaling]) {
      expect(refusal(() => resolveFp8(new Recipe({ fp8Mha: true }), true))).toMatchObject({ code: 'RECIPE_NOT_SUPPORTED', argument: 'recipe.fp8Mha' })
      expect(refusal(() => autocast({ recipe: new Recipe({ fp8Mha: true }) }, () => undefined))).toMatchObject({ code: 'RECIPE_NOT_SUPPORTED', argument: 'recipe.fp8Mha' })
    }
    expect(refusal(() => autocast({ recipe: new DelayedScaling({ fp8Dpa: true }) }, () => undefined))).toMatchObject({ code: 'RECIPE_NOT_SUPPORTED', argument: 'recipe.fp8Dpa' })
    // At inference its scales are calibrated.
    expect(resolveFp8(new DelayedScaling({ fp8Dpa: true }), true)).toMatchObject({ dpa: true })
    expect([resolveFp8(true, false)?.dpa, resolveFp8('current', false)?.dpa, resolveFp8('block', false)?.dpa]).toEqual([undefined, false, undefined])
  })
})
