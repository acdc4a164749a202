/** What compensate promises whatever the moments: error that only falls, and nothing done where there is nothing to gain. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ScaleGranularity } from '@octet-llm/core'
import { Random } from '../contracts/host.js'
import { listLevels, openDevice, type Device } from '../device.js'
import { Tensor } from '../tensor.js'
import { compensate, dequantize, gram, quantize } from './index.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu', { threads: 2 })))
afterAll(() => device.dispose())

const tensor = (values: ArrayLike<number>, shape: readonly number[], on: Device = device): Tensor => Tensor.from(Float32Array.from(values), { shape: [...shape], dtype: 'f32', device: on })
const normal = (random: Random, count: number): number[] => Array.from({ length: count }, () => random.normal())

/** Inputs [T, K] whose channels share a few causes. */
function inputs(random: Random, tokens: number, channels: number): number[] {
  const causes = Array.from({ length: 4 }, () => normal(random, channels))
  return Array.from({ length: tokens }, () => normal(random, 4)).flatMap((mix) => Array.from({ length: channels }, (_, k) => causes.reduce((sum, cause, c) => sum + mix[c]! * cause[k]!, 0.3 * random.normal())))
}

/** tr(E H Eᵀ) of a weight, by rows. H in float64, of the inputs themselves; within windows of `window` channels. */
function errors(weight: readonly number[], stored: Float32Array, x: readonly number[], channels: number, window: number): number[] {
  const tokens = x.length / channels
  return Array.from({ length: weight.length / channels }, (_, row) => {
    let sum = 0
    for (let t = 0; t < tokens; t++) {
      for (let begin = 0; begin < channels; begin += window) {
        let y = 0
        for (let k = begin; k < Math.min(begin + window, channels); k++) y += (weight[row * channels + k]! - stored[row * channels + k]!) * x[t * channels + k]!
        sum += y * y
      }
    }
    return sum
  })
}

async function codes(weight: Tensor, granularity: ScaleGranularity, moments: Tensor, passes: number): Promise<{ stored: Float32Array; bytes: Uint8Array }> {
  const quantized = compensate({ x: weight, moments, quantized: quantize({ x: weight, granularity }), passes })
  return { stored: await dequantize({ x: quantized }).toFloat32Array(), bytes: await quantized.data.toBytes() }
}

describe.each(['tensor', 'row', 'block1x128', 'block128x128'] as const)('by %s', (granularity) => {
  it.each([[3, 8, 8], [70, 130, 64], [33, 200, 128], [5, 96, 512]])('the error of [%i, %i] in windows of %i only falls, row by row, and far', async (rows, channels, window) => {
    const random = new Random(`${granularity} ${rows}`)
    const values = normal(random, rows * channels)
    const x = inputs(random, 3 * channels, channels)
    const moments = gram({ x: tensor(x, [x.length / channels, channels]), out: Tensor.zeros([channels, Math.min(window, channels)], { dtype: 'f32', device }) })
    const weight = tensor(values, [rows, channels])
    let before = errors(values.map(Math.fround), (await codes(weight, granularity, moments, 0)).stored, x, channels, window)
    const first = before.reduce((sum, e) => sum + e, 0)
    for (const passes of [1, 2, 3, 4]) {
      const after = errors(values.map(Math.fround), (await codes(weight, granularity, moments, passes)).stored, x, channels, window)
      // Sums in float32 may take a code that is worse by so little.
      for (const [row, error] of after.entries()) expect(error).toBeLessThanOrEqual(before[row]! * (1 + 1e-5))
      before = after
    }
    expect(before.reduce((sum, e) => sum + e, 0)).toBeLessThan(0.7 * first)
  })

  it('gives the codes of quantize for inputs that are not correlated', async () => {
    const [rows, channels] = [66, 140]
    const random = new Random('apart')
    const weight = tensor(normal(random, rows * channels), [rows, channels])
    const diagonal = tensor(Array.from({ length: channels * channels }, (_, i) => (i % (channels + 1) === 0 ? 10 ** random.normal() : 0)), [channels, channels])
    const { bytes } = await codes(weight, granularity, diagonal, 4)
    expect(Buffer.compare(bytes, await quantize({ x: weight, granularity }).data.toBytes())).toBe(0)
  })

  it('keeps the codes of channels without input, of values and of moments that are not finite', async () => {
    const [rows, channels, window] = [4, 96, 32]
    const random = new Random('special')
    const x = inputs(random, 300, channels).map((v, i) => (i % channels === 7 ? 0 : v))
    const moments = await gram({ x: tensor(x, [300, channels]), out: Tensor.zeros([channels, window], { dtype: 'f32', device }) }).toFloat32Array()
    // The second window's moments are broken, and the third row's values in the first window.
    for (let k = window; k < 2 * window; k++) moments[k * window + 3] = NaN
    moments[(window + 3) * window + 5] = Infinity
    const values = normal(random, rows * channels)
    values[2 * channels + 5] = NaN
    const weight = tensor(values, [rows, channels])
    const plain = await quantize({ x: weight, granularity }).data.toBytes()
    const { bytes } = await codes(weight, granularity, tensor(moments, [channels, window]), 4)
    const changed = [...bytes].flatMap((byte, i) => (byte === plain[i] ? [] : [[Math.floor(i / channels), i % channels] as const]))
    expect(changed.filter(([row, k]) => k === 7 || (k >= window && k < 2 * window) || (row === 2 && k < window))).toEqual([])
    // Where a block's scale is of a NaN, it is 1, and so coarse that little may be left to gain.
    if (granularity === 'row') expect(changed.length).toBeGreaterThan(20)
  })
})

it('makes the same codes on every level and with any number of threads', async () => {
  const random = new Random('levels')
  const [values, x] = [normal(random, 70 * 150), inputs(random, 64, 150)]
  const moments = await gram({ x: tensor(x, [64, 150]), out: Tensor.zeros([150, 128], { dtype: 'f32', device }) }).toFloat32Array()
  const found = new Set<string>()
  for (const { name } of listLevels().filter(({ supported }) => supported)) {
    for (const threads of [1, 3]) {
      const other = await openDevice('cpu', { isa: name, threads })
      const quantized = quantize({ x: tensor(values, [70, 150], other), granularity: 'row' })
      found.add(Buffer.from(await compensate({ x: tensor(values, [70, 150], other), moments: tensor(moments, [150, 128], other), quantized }).data.toBytes()).toString('hex'))
      await other.dispose()
    }
  }
  expect(found.size).toBe(1)
})

it('sums moments over calls, mirrored to the bit', async () => {
  const random = new Random('gram')
  const x = tensor(inputs(random, 200, 50), [200, 50])
  const [all, parts] = [Tensor.zeros([50, 32], { dtype: 'f32', device }), Tensor.zeros([50, 32], { dtype: 'f32', device })]
  gram({ x, out: all })
  for (const [begin, end] of [[0, 128], [128, 200]] as const) gram({ x: x.rows(begin, end), out: parts })
  const sums = await all.toFloat32Array()
  expect(await parts.toFloat32Array()).toEqual(sums)
  for (let k = 0; k < 50; k++) for (let j = k - (k % 32); j < Math.min(k - (k % 32) + 32, 50); j++) expect(Object.is(sums[k * 32 + (j % 32)], sums[j * 32 + (k % 32)])).toBe(true)
})

it('refuses what does not fit', () => {
  const weight = tensor(new Array<number>(12).fill(1), [3, 4])
  const quantized = quantize({ x: weight, granularity: 'row' })
  const moments = tensor(new Array<number>(16).fill(1), [4, 4])
  const failing = (options: object, error: object): void => {
    let thrown: unknown
    try {
      compensate({ x: weight, moments, quantized, ...options })
    } catch (caught) {
      thrown = caught
    }
    expect(thrown).toMatchObject(error)
  }
  failing({ moments: moments.rows(0, 3) }, { code: 'SHAPE_MISMATCH', argument: 'moments' })
  failing({ moments: Tensor.empty([4, 0], { dtype: 'f32', device }) }, { code: 'INVALID_ARGUMENT', argument: 'moments' })
  failing({ passes: -1 }, { code: 'INVALID_ARGUMENT', argument: 'passes' })
  failing({ quantized: { ...quantized, granularity: 'tensor' } }, { code: 'SHAPE_MISMATCH', argument: 'quantized.scaleInv' })
  failing({ quantized: quantize({ x: weight, granularity: 'row', dtype: 'e5m2' }) }, { code: 'DTYPE_MISMATCH', argument: 'quantized.data' })
  expect(() => gram({ x: weight, out: Tensor.empty([4, 0], { dtype: 'f32', device }) })).toThrow(/at least one channel/)
  expect(() => gram({ x: weight, out: Tensor.empty([3, 3], { dtype: 'f32', device }) })).toThrow(/expected \[4, S\]/)
})
