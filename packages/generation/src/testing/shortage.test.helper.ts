import { OctetError } from '@octet-llm/core'
import type { Device } from '@octet-llm/kernels'
import { expect, vi } from 'vitest'

/**
 * Allocations that `make` needed; it is called with memory for none of them, for one, for two, … until it succeeds, and must
 * leave nothing behind each time.
 * @param settle brings what is kept between calls back into one state
 */
export async function starve(device: Device, make: () => unknown, settle: () => unknown = () => undefined): Promise<number> {
  const allocate = device.allocator.allocate.bind(device.allocator)
  for (let room = 0; ; room++) {
    await settle()
    const before = device.memoryStats().allocations
    let left = room
    const spy = vi.spyOn(device.allocator, 'allocate').mockImplementation((...args) => {
      if (left-- > 0) return allocate(...args)
      throw new OctetError('OUT_OF_MEMORY', { op: 'test', expected: `${room} allocations`, received: 'one more' })
    })
    let made: unknown
    let failure: { readonly error: unknown } | undefined
    try {
      made = await make()
    } catch (error) {
      failure = { error }
    }
    spy.mockRestore()
    if (failure === undefined) await (made as { dispose?(): void | Promise<void> } | undefined)?.dispose?.()
    else expect(failure.error).toMatchObject({ code: 'OUT_OF_MEMORY' })
    await settle()
    await device.synchronize()
    expect(device.memoryStats().allocations, `with room for ${room}`).toBe(before)
    if (failure === undefined) return room
  }
}
