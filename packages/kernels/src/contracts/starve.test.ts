import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '../device.js'
import { Tensor } from '../tensor.js'
import { starve } from './starve.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu', { threads: 1 })))
afterAll(() => device.dispose())

const tensor = (): Tensor => Tensor.empty([4], { dtype: 'f32', device })
const all = (tensors: readonly Tensor[]) => ({ dispose: () => tensors.forEach((t) => void t.dispose()) })

describe('starve', () => {
  it('counts what a sound maker needs, and leaves the allocator as it was', async () => {
    const sound = () => {
      const first = tensor()
      try {
        return all([first, tensor()])
      } catch (error) {
        first.dispose()
        throw error
      }
    }
    expect(await starve(device, sound)).toBe(2)
    tensor().dispose()
  })

  it('finds what a failed call keeps, what a result does not free, and another error', async () => {
    const kept: Tensor[] = []
    await expect(starve(device, () => all([(kept[0] = tensor()), tensor()]))).rejects.toThrow('with room for 1 allocations, 1 stay behind')
    await expect(starve(device, () => void (kept[1] = tensor()))).rejects.toThrow('with room for 1 allocations, 1 stay behind')
    await expect(starve(device, () => { throw new Error('no') })).rejects.toThrow('with room for 0 allocations it failed otherwise')
    for (const t of kept) t.dispose()
  })
})
