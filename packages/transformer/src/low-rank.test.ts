import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TensorSource } from '@octet-llm/core'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { LowRankUpdate } from './low-rank.js'
import { starve } from '@octet-llm/kernels/contracts'
import { Workspace } from './workspace.js'

let device: Device
let dir: string
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  dir = await mkdtemp(join(tmpdir(), 'octet-low-rank-'))
})
afterAll(async () => {
  await device.dispose()
  await rm(dir, { recursive: true })
})

async function source(name: string, shape: readonly number[], values: readonly number[]): Promise<TensorSource> {
  const path = join(dir, name)
  await writeFile(path, new Uint8Array(Float32Array.from(values).buffer))
  return { name, path, offset: 0, byteLength: 4 * values.length, dtype: 'f32', shape }
}

it('adds scaling * B (A x), and leaves nothing whichever of its tensors finds no memory', async () => {
  const factors = { a: await source('a', [1, 2], [1, 2]), b: await source('b', [3, 1], [1, 10, 100]), scaling: 0.5 }
  expect(await starve(device, () => LowRankUpdate.read([0, 3], factors, device, 'f32', undefined))).toBe(3)
  const update = await LowRankUpdate.read([0, 3], factors, device, 'f32', undefined)
  expect(device.memoryStats().allocations).toBe(2)
  const [x, y, workspace] = [Tensor.from([1, 1], { shape: [1, 2], dtype: 'f32', device }), Tensor.zeros([1, 3], { dtype: 'f32', device }), new Workspace(device)]
  update.add(x, y, workspace)
  expect([...(await y.toFloat32Array())]).toEqual([1.5, 15, 150])
  for (const t of [update, x, y, workspace]) t.dispose()
  expect(device.memoryStats().allocations).toBe(0)
})
