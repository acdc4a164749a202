import { OctetError } from '@octet-llm/core'
import type { Device } from '../device.js'

/**
 * Allocations that `make` needed. It is called with memory for none of them, for one, for two, … until it succeeds; each failed
 * call must throw `OUT_OF_MEMORY`, and no call, its result disposed, may leave an allocation behind.
 * @param settle brings what is kept between calls back into one state
 * @throws Error that names how many allocations there was room for
 */
export async function starve(device: Device, make: () => unknown, settle: () => unknown = () => undefined): Promise<number> {
  const { allocator } = device
  const allocate = allocator.allocate.bind(allocator)
  for (let room = 0; ; room++) {
    await settle()
    const before = device.memoryStats().allocations
    let left = room
    allocator.allocate = (...args) => {
      if (left-- > 0) return allocate(...args)
      throw new OctetError('OUT_OF_MEMORY', { op: 'test', expected: `${room} allocations`, received: 'one more' })
    }
    let made: unknown
    let failure: { readonly error: unknown } | undefined
    try {
      made = await make()
    } catch (error) {
      failure = { error }
    } finally {
      allocator.allocate = allocate
    }
    if (failure === undefined) await (made as { dispose?(): void | Promise<void> } | undefined)?.dispose?.()
    else if (!OctetError.is(failure.error, 'OUT_OF_MEMORY')) throw new Error(`with room for ${room} allocations it failed otherwise`, { cause: failure.error })
    await settle()
    await device.synchronize()
    const kept = device.memoryStats().allocations - before
    if (kept !== 0) throw new Error(`with room for ${room} allocations, ${kept} stay behind`)
    if (failure === undefined) return room
  }
}
