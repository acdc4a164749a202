/** What calibration collects to round weights by, and what a load does with it. */
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
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
  for (const [k, j] of [[0, 0], [3, 1023], [1023, 3], [1024, 1199], [1199, 1100]] as const) expect(sums[k * 1024 + (j % 1024)]).toBeCloseTo(product(k, j), 4)
  // No channel follows the last.
  expect([...sums.subarray(1100 * 1024 + 176, 1101 * 1024)].every((v) => v === 0)).toBe(true)
  expect(moments.byteLength).toBe(1200 * 1024 * 4)
  moments.dispose()
  expect(moments.byteLength).toBe(0)
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
