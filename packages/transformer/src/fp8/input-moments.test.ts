/** What calibration collects to round weights by, and what a load does with it. */
import { dequantize, linear, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { Random } from '@octet-llm/kernels/contracts'
import { afterAll, beforeAll, expect, it } from 'vitest'

import { Weight } from '../weight.js'
import { InputMoments } from './input-moments.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu', { threads: 2 })))
afterAll(() => device.dispose())

const wave = (rows: number, cols: number): Tensor => Tensor.from(Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i * 12.9898)), { shape: [rows, cols], dtype: 'f32', device })

it('sums up every batch of a projection, in windows of 1024 channels', async () => {
  const moments = new InputMoments(device)
  const parts = [wave(3, 1200), wave(9, 1200)]
  for (const x of parts) moments.add('layers.0.mlp.fc2', x)
  const sums = await moments.of('layers.0.mlp.fc2', 1200).toFloat32Array()
  const values = await Promise.all(parts.map((x) => x.toFloat32Array()))
  const product = (k: number, j: number): number => values.reduce((sum, x) => sum + Array.from({ length: x.length / 1200 }, (_, t) => x[t * 1200 + k]! * x[t * 1200 + j]!).reduce((a, b) => a + b, 0), 0)
  // 12 tokens for windows of 1024 channels: each channel's own moment is enlarged.
  for (const k of [0, 7, 1023, 1024, 1199]) expect(sums[k * 1024 + (k % 1024)]! / product(k, k)).toBeCloseTo(1 + (4 * 1024) / 12, 1)
  for (const [k, j] of [[0, 1], [3, 1023], [1023, 3], [1024, 1199], [1199, 1100]] as const) expect(sums[k * 1024 + (j % 1024)]).toBeCloseTo(product(k, j), 4)
  // No channel follows the last.
  expect([...sums.subarray(1100 * 1024 + 176, 1101 * 1024)].every((v) => v === 0)).toBe(true)
  expect(moments.byteLength).toBe(1200 * 1024 * 4)
  moments.dispose()
  expect(moments.byteLength).toBe(0)
})

/** Inputs [tokens, K] whose channels share four causes. */
function inputs(tokens: number, channels: number, random: Random): Tensor {
  const causes = Array.from({ length: 4 * channels }, (_, i) => Math.sin(1 + i * 7.13))
  const values = Array.from({ length: tokens }, () => {
    const mix = Array.from({ length: 4 }, () => random.normal())
    return Array.from({ length: channels }, (_, k) => mix.reduce((sum, m, c) => sum + m * causes[c * channels + k]!, 0.3 * random.normal()))
  })
  return Tensor.from(Float32Array.from(values.flat()), { shape: [tokens, channels], dtype: 'f32', device })
}

it.each([[1, 1.02], [8, 1.02], [60, 1.02], [400, 0.9], [4000, 0.75]])('weights rounded by %i tokens err at most %f times as much as the nearest ones, on others', async (tokens, most) => {
  const [rows, channels] = [96, 128]
  const random = new Random('few tokens')
  const values = Tensor.from(Float32Array.from({ length: rows * channels }, () => random.normal()), { shape: [rows, channels], dtype: 'f32', device })
  const weight = new Weight({ device, dtype: 'f32', shape: [rows, channels], quantize: { granularity: 'row' } })
  const others = inputs(2000, channels, random)
  const want = await linear({ x: others, weight: values }).toFloat32Array()
  const error = async (): Promise<number> => (await linear({ x: others, weight: dequantize({ x: weight.quantized() }) }).toFloat32Array()).reduce((sum, y, i) => sum + (y - want[i]!) ** 2, 0)
  const moments = new InputMoments(device)
  moments.add('p', inputs(tokens, channels, random))
  weight.quantizeFrom(values)
  const nearest = await error()
  weight.storage.compensate(undefined, values, moments.of('p', channels))
  expect((await error()) / nearest).toBeLessThan(most)
  moments.dispose()
  weight.dispose()
})

it('forgets how few tokens there were when more come', async () => {
  const [apart, whole] = [new InputMoments(device), new InputMoments(device)]
  const x = wave(50, 16)
  apart.add('a', x.rows(0, 7))
  apart.of('a', 16)
  apart.add('a', x.rows(7, 50))
  whole.add('a', x)
  const [got, want] = [await apart.of('a', 16).toFloat32Array(), await whole.of('a', 16).toFloat32Array()]
  for (const [i, value] of want.entries()) expect(got[i]).toBeCloseTo(value, 4)
  expect(await whole.of('a', 16).toFloat32Array()).toEqual(want)
  for (const m of [apart, whole]) m.dispose()
})

it('belongs to the projections that it saw', () => {
  const moments = new InputMoments(device)
  moments.add('a', wave(2, 16))
  expect(() => moments.of('b', 16)).toThrow(/those of 16 inputs of b, received none/)
  expect(() => moments.of('a', 32)).toThrow(/those of 32 inputs of a, received those of 16; calibrate this model/)
  moments.dispose()
})

it('is refused by a device that cannot compensate', () => {
  const gpu = { name: 'cuda:0', supports: (op: string) => op !== 'compensate' } as unknown as Device
  expect(() => new InputMoments(gpu)).toThrow(/expected a CPU device, received cuda:0; quantize on the CPU/)
  expect([InputMoments.supports(gpu), InputMoments.supports(device)]).toEqual([false, true])
})

it('a segment says how its codes were chosen, until it is stored again', async () => {
  const weight = new Weight({ device, dtype: 'f32', shape: [40, 64], segments: [{ name: 'gate', rows: 24 }, { name: 'up', rows: 16 }], quantize: { granularity: 'tensor' } })
  const moments = new InputMoments(device)
  moments.add('fc1', Tensor.from(Float32Array.from({ length: 8 * 64 }, (_, i) => Math.cos(Math.floor(i / 64) * 3 + (i % 64) / 9)), { shape: [8, 64], dtype: 'f32', device }))
  const values = wave(40, 64)
  weight.quantizeFrom(values)
  const plain = await weight.quantized('up').data.toBytes()
  weight.storage.compensate('up', values.rows(24, 40), moments.of('fc1', 64))
  expect([weight.storage.rounding('gate'), weight.storage.rounding('up')]).toEqual(['nearest', 'compensated'])
  expect(Buffer.compare(await weight.quantized('up').data.toBytes(), plain)).not.toBe(0)
  weight.quantizeFrom(values.rows(24, 40), 'up')
  expect(weight.storage.rounding('up')).toBe('nearest')
  expect(Buffer.compare(await weight.quantized('up').data.toBytes(), plain)).toBe(0)
  moments.dispose()
  weight.dispose()
})
