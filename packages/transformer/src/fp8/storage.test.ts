import { f32ToE4m3, type ScaleGranularity } from '@octet-llm/core'
import { blockScales } from '@octet-llm/fp8-recipe'
import { dequantize, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams } from '@octet-llm/kv-cache'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { DotProductAttention } from '../dot-product-attention.js'
import { Linear } from '../linear.js'
import { MultiheadAttention } from '../multihead-attention.js'
import { exportState, importState } from '../state.js'
import { attend } from '../testing/oracle.test.util.js'
import { noise } from '../testing/layer.test.util.js'
import { Weight } from '../weight.js'
import type { Fp8Inference } from './inference.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const GRANULARITIES: readonly ScaleGranularity[] = ['tensor', 'row', 'block1x128', 'block128x128']
/** Ragged: no segment but the first is a multiple of 128 rows, and K is not a multiple of 128 either. */
const SEGMENTS = [{ name: 'query', rows: 256 }, { name: 'key', rows: 96 }, { name: 'value', rows: 130 }]
const ROWS = 482
const K = 200

const f32 = (data: Float32Array, shape: readonly number[]) => Tensor.from(data, { shape, dtype: 'f32', device })
const inference = (granularity: ScaleGranularity, inputs: ScaleGranularity = 'row'): Fp8Inference => ({ recipe: undefined, weights: { granularity }, inputs: { granularity: inputs }, staticInputs: true, lmHead: false })

/** Values whose segments differ in size by powers of ten, so that a scale of the wrong segment shows. */
function values(rows: number, seed: number): Float32Array {
  return noise(rows * K, seed).map((v, i) => v * 10 ** (seed % 3) * (1 + (Math.floor(i / K) % 7)))
}

describe('an FP8 weight', () => {
  it.each(GRANULARITIES.flatMap((g) => [false, true].map((powerOf2) => [g, powerOf2] as const)))('holds codes and scales of every segment as the reference has them: %s, power of two %s', async (granularity, powerOf2) => {
    const w = new Weight({ device, dtype: 'f32', shape: [ROWS, K], segments: SEGMENTS, quantize: { granularity, powerOf2 } })
    for (const [i, { name, rows }] of SEGMENTS.entries()) w.storage.store(name, f32(values(rows, i + 1), [rows, K]), w.rule!)
    for (const [i, { name, rows }] of SEGMENTS.entries()) {
      const x = values(rows, i + 1)
      const want = blockScales(x, [rows, K], granularity, 'e4m3', { power2: powerOf2 })
      const got = w.quantized(name)
      expect(got.granularity).toBe(granularity)
      expect([...(await got.scaleInv.toFloat32Array())]).toEqual([...want.scaleInv])
      const [height, width] = { tensor: [rows, K], row: [1, K], block1x128: [1, 128], block128x128: [128, 128] }[granularity] as [number, number]
      const scaleAt = (j: number) => want.scale[Math.floor(Math.floor(j / K) / height) * want.shape[1] + Math.floor((j % K) / width)]!
      const codes = Uint8Array.from(x, (v, j) => f32ToE4m3(Math.fround(v * scaleAt(j))))
      expect(Buffer.compare(Buffer.from(await got.data.toBytes()), Buffer.from(codes))).toBe(0)
    }
    w.dispose()
  })

  it.each(GRANULARITIES.flatMap((g) => (['row', 'block1x128'] as const).map((inputs) => [g, inputs] as const)))('multiplies as its de-quantized values do: weights %s, inputs %s', async (granularity, inputs) => {
    const part = new Linear({ device, inFeatures: K, outFeatures: ROWS, parametersSplit: SEGMENTS, seed: 3, fp8: inference(granularity, inputs) })
    part.bias!.tensor.write(noise(ROWS, 9))
    const x = f32(noise(5 * K, 4).map((v, i) => v * (1 + Math.floor(i / K))), [5, K])
    const residual = f32(noise(5 * ROWS, 5), [5, ROWS])
    const got = await part.run(x, { residual }).toFloat32Array()
    const xq = blockScales(await x.toFloat32Array(), [5, K], inputs, 'e4m3')
    const across = xq.shape[1]
    const plainX = (await x.toFloat32Array()).map((v, i) => {
      const s = Math.floor(i / K) * across + (across === 1 ? 0 : Math.floor((i % K) / 128))
      return fp8(Math.fround(v * xq.scale[s]!)) * xq.scaleInv[s]!
    })
    const plainW = (await Promise.all(SEGMENTS.map(({ name }) => dequantize({ x: part.weight.quantized(name) }).toFloat32Array()))).flatMap((a) => [...a])
    const [bias, res] = [noise(ROWS, 9), noise(5 * ROWS, 5)]
    let worst = 0
    for (let m = 0; m < 5; m++) {
      for (let n = 0; n < ROWS; n++) {
        let sum = bias[n]! + res[m * ROWS + n]!
        for (let k = 0; k < K; k++) sum += plainX[m * K + k]! * plainW[n * K + k]!
        worst = Math.max(worst, Math.abs(sum - got[m * ROWS + n]!))
      }
    }
    // 200 float32 additions of values below 1.
    expect(worst).toBeLessThan(2e-5)
    for (const { name } of SEGMENTS) {
      const [begin, end] = part.weight.range(name)
      const alone = await part.runSegment(x, name).toFloat32Array()
      const whole = await part.run(x).toFloat32Array()
      expect([...alone]).toEqual(Array.from({ length: 5 }, (_, m) => [...whole.subarray(m * ROWS + begin, m * ROWS + end)]).flat())
    }
    part.dispose()
  })

  it('takes at most 0.52 of its bf16 bytes by row, and nothing before it is filled', () => {
    const w = new Weight({ device, dtype: 'bf16', shape: [512, 192], quantize: { granularity: 'row' } })
    const before = device.memoryStats().allocatedBytes
    expect(w.byteLength).toBe(512 * 192)
    expect(device.memoryStats().allocatedBytes).toBe(before)
    w.randomize(0, 0.02, [0])
    expect(w.byteLength).toBe(512 * 192 + 512 * 4)
    expect(w.byteLength).toBeLessThanOrEqual(0.52 * 512 * 192 * 2)
    w.dispose()
  })

  it('has no plain values, and its layout is chosen before it takes memory', () => {
    const w = new Weight({ device, dtype: 'f32', shape: [4, 8], quantize: { granularity: 'row' } })
    expect(() => w.tensor).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    const used = new Weight({ device, dtype: 'f32', shape: [4, 8], quantize: { granularity: 'row' } })
    for (const call of [() => used.runs, () => used.quantized(), () => used.quantized('other'), () => used.layOut(undefined)]) expect(call).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    used.dispose()
    w.layOut(undefined)
    expect([w.dtype, w.tensor.dtype]).toEqual(['f32', 'f32'])
    expect(() => w.layOut({ granularity: 'row' })).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    expect(() => w.storage).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    w.dispose()
  })

  it('joins the segments of one kind of scales into one product', () => {
    const runs = (granularity: ScaleGranularity, segments = SEGMENTS) => {
      const rows = segments.reduce((sum, s) => sum + s.rows, 0)
      const w = new Weight({ device, dtype: 'f32', shape: [rows, K], segments, quantize: { granularity } })
      w.fill(1)
      const found = w.runs.map(({ begin, end }) => [begin, end])
      w.dispose()
      return found
    }
    for (const g of ['tensor', 'row', 'block1x128'] as const) expect(runs(g)).toEqual([[0, ROWS]])
    expect(runs('block128x128')).toEqual([[0, 352], [352, 482]])
    expect(runs('block128x128', [{ name: 'gate', rows: 128 }, { name: 'up', rows: 128 }])).toEqual([[0, 256]])
  })
})

/** The value of the nearest e4m3 code. */
function fp8(value: number): number {
  const code = f32ToE4m3(value)
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7]
  const size = exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7)
  return code & 128 ? -size : size
}

describe('static input scales', () => {
  it('quantize by the inverse of what the checkpoint holds, and take only usable values', async () => {
    const part = new Linear({ device, inFeatures: 32, outFeatures: 8, bias: false, seed: 1, fp8: inference('row') })
    const x = f32(noise(3 * 32, 2).map((v) => 40 * v), [3, 32])
    const dynamic = await part.forward(x).toFloat32Array()
    part.setInputScale(0.03)
    const scaleInv = Math.fround(1 / Math.fround(1 / Math.fround(0.03)))
    const w = await dequantize({ x: part.weight.quantized() }).toFloat32Array()
    const plain = (await x.toFloat32Array()).map((v) => fp8(Math.fround(v * Math.fround(1 / Math.fround(0.03)))) * scaleInv)
    const got = await part.forward(x).toFloat32Array()
    expect([...got]).not.toEqual([...dynamic])
    for (let m = 0; m < 3; m++) {
      for (let n = 0; n < 8; n++) {
        let sum = 0
        for (let k = 0; k < 32; k++) sum += plain[m * 32 + k]! * w[n * 32 + k]!
        expect(Math.abs(sum - got[m * 8 + n]!)).toBeLessThan(1e-5)
      }
    }
    for (const bad of [0, -1, NaN, Infinity, 1e-60]) expect(() => part.setInputScale(bad)).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    part.setInputScale(undefined)
    expect([...(await part.forward(x).toFloat32Array())]).toEqual([...dynamic])
    part.dispose()
  })
})

describe('state', () => {
  it.each([false, true])('of plain modules fills FP8 ones, segment by segment, from any row order: fused %s', async (fuseQkvParams) => {
    const options = { device, hiddenSize: 96, numAttentionHeads: 6, numGqaGroups: 2, kvChannels: 32, bias: false, fuseQkvParams, seed: 4 }
    const plain = new MultiheadAttention(options)
    const direct = new MultiheadAttention({ ...options, fp8: inference('block128x128') })
    const filled = new MultiheadAttention({ ...options, fp8: inference('block128x128'), initialize: false })
    importState(filled, await exportState(plain))
    for (const name of ['query', 'key', 'value']) {
      const [a, b] = [filled.qkv.weight.quantized(name), direct.qkv.weight.quantized(name)]
      expect([await a.data.toBytes(), await a.scaleInv.toBytes()]).toEqual([await b.data.toBytes(), await b.scaleInv.toBytes()])
    }
    await expect(exportState(filled)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    for (const part of [plain, direct, filled]) part.dispose()
  })
})

describe('attention over an FP8 cache', () => {
  const cases = [[32, 4, 4], [64, 4, 2], [128, 4, 1], [256, 2, 1]] as const
  it.each(cases.flatMap((c) => ([[Infinity, false], [3, true]] as const).map((how) => [...c, ...how] as const)))('is that of the same quantized keys and values: D %i, H %i, Hkv %i, chunks of %d, paged %s', async (headDim, heads, kvHeads, chunk, isPaged) => {
    const tokens = 11
    const scales = (seed: number) => noise(kvHeads, seed).map((v) => 0.01 * (1.5 + v))
    const [kScale, vScale] = [scales(1), scales(2)]
    const [q, k, v] = [noise(tokens * heads * headDim, 3), noise(tokens * kvHeads * headDim, 4).map((x) => 5 * x), noise(tokens * kvHeads * headDim, 5).map((x) => 3 * x)]
    const stored = (x: Float32Array, scale: Float32Array) => Float64Array.from(x, (value, i) => {
      const s = scale[Math.floor(i / headDim) % kvHeads]!
      return fp8(Math.fround(value * Math.fround(1 / s))) * s
    })
    const want = attend(Float64Array.from(q), stored(k, kScale), stored(v, vScale), { heads, kvHeads, headDim })
    const core = new DotProductAttention({ numAttentionHeads: heads, numGqaGroups: kvHeads, kvChannels: headDim, qkvFormat: 'thd' })
    const params = new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 16, numHeadsKv: kvHeads, headDimK: headDim, dtype: 'e4m3', isPaged, pageSize: 4, qkvFormat: 'thd', kvScales: [{ k: kScale, v: vScale }] })
    const got: number[] = []
    for (let at = 0; at < tokens; at += chunk) {
      const count = Math.min(chunk, tokens - at)
      params.preStep(new Map([[0, count]]))
      const part = (x: Float32Array, n: number) => f32(x.slice(at * n * headDim, (at + count) * n * headDim), [count, n * headDim])
      got.push(...(await core.forward(part(q, heads), part(k, kvHeads), part(v, kvHeads), { inferenceParams: params }).toFloat32Array()))
    }
    const scale = Math.max(...want.map(Math.abs))
    // The codes are the same; what is left is float32's summation.
    const worst = Math.max(...got.map((value, i) => Math.abs(value - want[i]!)))
    expect(worst / scale).toBeLessThan(1e-5)
    params.dispose()
  })

  it('refuses scales that do not fit the cache', () => {
    const make = (kvScales: { k: Float32Array; v: Float32Array }[], dtype: 'e4m3' | 'f32' = 'e4m3') => () => new InferenceParams({ device, numLayers: 1, maxBatchSize: 1, maxSequenceLength: 16, numHeadsKv: 2, headDimK: 32, dtype, kvScales })
    const good = Float32Array.of(1, 2)
    for (const call of [make([]), make([{ k: good, v: Float32Array.of(1) }]), make([{ k: Float32Array.of(0, 1), v: good }]), make([{ k: good, v: Float32Array.of(1, NaN) }]), make([{ k: good, v: good }], 'f32')]) {
      expect(call).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', op: 'InferenceParams' }))
    }
    make([{ k: good, v: good }])().dispose()
  })
})
