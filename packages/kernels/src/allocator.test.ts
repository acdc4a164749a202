import { OctetError } from '@octet-llm/core'
import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { Allocator, sizeClass, type Block, type MemorySource, type Pool, type QueueProgress } from './allocator.js'

const MiB = 1 << 20

/** A queue whose progress the test sets. */
class FakeQueue implements QueueProgress {
  enqueued = 0
  done = 0
  completed(): number {
    return this.done
  }
}

/** Hands out distinct addresses and knows which are live. */
class FakeMemory implements MemorySource {
  readonly live = new Map<number, number>()
  refuse = false
  /** Blocks that the system grants at once. */
  most = Infinity
  #next = 0x1000000
  reserve(bytes: number): number {
    if (this.refuse || this.live.size >= this.most) return 0
    const address = this.#next
    this.#next += bytes + 4096
    this.live.set(address, bytes)
    return address
  }
  release(address: number): void {
    if (!this.live.delete(address)) throw new Error(`released ${address} twice`)
  }
  total(): number {
    return [...this.live.values()].reduce((a, b) => a + b, 0)
  }
}

let memory: FakeMemory
let queue: FakeQueue
let allocator: Allocator
let pool: Pool

beforeEach(() => {
  memory = new FakeMemory()
  queue = new FakeQueue()
  allocator = new Allocator(memory, 1024 * MiB)
  pool = allocator.poolOf(queue)
})

describe('sizeClass', () => {
  it('is an upper bound, idempotent, monotone and tight', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 44 }), fc.integer({ min: 0, max: 2 ** 20 }), (n, more) => {
        const size = sizeClass(n)
        expect(size).toBeGreaterThanOrEqual(Math.max(n, 64))
        expect(size % 64).toBe(0)
        expect(sizeClass(size)).toBe(size)
        expect(sizeClass(n + more)).toBeGreaterThanOrEqual(size)
        if (n > MiB) expect(size).toBeLessThanOrEqual(n * 1.125)
        else expect(size).toBeLessThanOrEqual(Math.max(n * 1.25, n + 64))
      }),
      { numRuns: 2000 },
    )
  })

  it('keeps powers of two, also past 2^32', () => {
    for (let e = 6; e <= 45; e++) expect(sizeClass(2 ** e)).toBe(2 ** e)
    expect(sizeClass(2 ** 33 + 1)).toBe(2 ** 33 + 2 ** 30)
    expect(sizeClass(65)).toBe(128)
  })
})

describe('Allocator', () => {
  it('never overlaps live blocks and keeps its books (random traces)', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('take' as const), bytes: fc.oneof(fc.integer({ min: 0, max: 5000 }), fc.integer({ min: 1, max: 40 * MiB })), second: fc.boolean() }),
      fc.record({ kind: fc.constant('free' as const), index: fc.nat() }),
      fc.record({ kind: fc.constant('empty' as const) }),
      fc.record({ kind: fc.constant('run' as const) }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const source = new FakeMemory()
        const queues = [new FakeQueue(), new FakeQueue()]
        const a = new Allocator(source, 2 ** 40)
        const live: { block: Block; owner: FakeQueue }[] = []
        for (const s of steps) {
          for (const q of queues) q.enqueued += 1
          if (s.kind === 'take') {
            const owner = queues[s.second ? 1 : 0]!
            live.push({ block: a.allocate(s.bytes, a.poolOf(owner)), owner })
            expect(live.at(-1)!.block.bytes).toBeGreaterThanOrEqual(s.bytes)
          } else if (s.kind === 'free' && live.length > 0) {
            const [{ block, owner }] = live.splice(s.index % live.length, 1) as [{ block: Block; owner: FakeQueue }]
            a.free(block, a.poolOf(owner))
          } else if (s.kind === 'run') {
            for (const q of queues) q.done = q.enqueued
          } else if (s.kind === 'empty') a.emptyCache()
          const sorted = live.map(({ block }) => block).sort((x, y) => x.address - y.address)
          sorted.forEach((block, i) => {
            const next = sorted[i + 1]
            if (next !== undefined) expect(block.address + block.bytes).toBeLessThanOrEqual(next.address)
            expect(block.address % 64).toBe(0)
            const home = [...source.live].find(([at, bytes]) => block.address >= at && block.address + block.bytes <= at + bytes)
            expect(home).toBeDefined()
          })
          const stats = a.stats()
          expect(stats.allocations).toBe(live.length)
          expect(stats.allocatedBytes).toBe(live.reduce((sum, { block }) => sum + block.bytes, 0))
          expect(stats.reservedBytes).toBe(source.total())
          expect(stats.peakAllocatedBytes).toBeGreaterThanOrEqual(stats.allocatedBytes)
        }
        for (const { block, owner } of live) a.free(block, a.poolOf(owner))
        for (const q of queues) q.done = q.enqueued
        a.emptyCache()
        expect(a.stats()).toMatchObject({ allocatedBytes: 0, reservedBytes: 0, allocations: 0 })
        expect(source.live.size).toBe(0)
      }),
      { numRuns: 200 },
    )
  })

  it('hands freed memory out again at once, in the order of the same queue only', () => {
    const first = allocator.allocate(4096, pool)
    allocator.free(first, pool)
    expect(allocator.allocate(4096, pool).address).toBe(first.address)
    const large = allocator.allocate(8 * MiB, pool)
    allocator.free(large, pool)
    const other = allocator.poolOf(new FakeQueue())
    expect(allocator.allocate(8 * MiB, other).address).not.toBe(large.address)
    expect(allocator.allocate(8 * MiB, pool).address).toBe(large.address)
  })

  it('serves a large request from a somewhat larger cached block, not from a much larger one', () => {
    const ten = allocator.allocate(10 * MiB, pool)
    allocator.free(ten, pool)
    expect(allocator.allocate(5 * MiB, pool).address).not.toBe(ten.address)
    expect(allocator.allocate(7 * MiB, pool).address).toBe(ten.address)
  })

  it('returns large blocks past 128 MiB of cache to the system, but none a queue still needs', () => {
    const blocks = [1, 2, 3].map(() => allocator.allocate(64 * MiB, pool))
    queue.enqueued = 5
    for (const block of blocks) allocator.free(block, pool)
    expect(memory.total()).toBe(192 * MiB)
    queue.done = 5
    const more = allocator.allocate(80 * MiB, pool)
    allocator.free(more, pool)
    expect(memory.total()).toBeLessThanOrEqual(128 * MiB)
  })

  it('keeps a slab until its last free is passed', () => {
    const a = allocator.allocate(1000, pool)
    const b = allocator.allocate(1000, pool)
    queue.enqueued = 3
    allocator.free(a, pool)
    expect(allocator.emptyCache()).toBe(0)
    allocator.free(b, pool)
    expect(allocator.emptyCache()).toBe(0)
    expect(allocator.allocate(1000, pool).address).toBe(b.address)
    allocator.free(b, pool)
    queue.done = 3
    expect(allocator.emptyCache()).toBe(2 * MiB)
    expect(memory.live.size).toBe(0)
  })

  it('refuses past its limit with the bytes, after giving up its cache', () => {
    const cached = allocator.allocate(100 * MiB, pool)
    allocator.free(cached, pool)
    allocator.allocate(1000 * MiB, pool)
    expect(memory.live.size).toBe(1)
    let error: unknown
    try {
      allocator.allocate(5e12, pool)
    } catch (e) {
      error = e
    }
    expect(OctetError.is(error, 'OUT_OF_MEMORY')).toBe(true)
    expect((error as OctetError).message).toContain('5000000000000 bytes')
    memory.refuse = true
    expect(() => allocator.allocate(3 * MiB, pool)).toThrow(expect.objectContaining({ code: 'OUT_OF_MEMORY' }))
    expect(allocator.stats().allocations).toBe(1)
  })

  it('gives up its cache and asks again where the system refuses', () => {
    const cached = allocator.allocate(100 * MiB, pool)
    allocator.free(cached, pool)
    // Another process holds the rest: there is room only once the cache has gone.
    memory.most = 1
    const block = allocator.allocate(200 * MiB, pool)
    expect(memory.live.size).toBe(1)
    expect(allocator.stats().reservedBytes).toBe(block.bytes)
  })

  it('hands the memory of a closed queue to its heir', () => {
    const other = new FakeQueue()
    const block = allocator.allocate(3 * MiB, allocator.poolOf(other))
    allocator.free(block, allocator.poolOf(other))
    allocator.retire(other, queue)
    expect(allocator.allocate(3 * MiB, pool).address).toBe(block.address)
  })
})
