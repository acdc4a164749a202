import { OctetError } from '@octet-llm/core'

/** Where an {@link Allocator} gets large blocks from. Addresses are plain numbers. */
export interface MemorySource {
  /** A block of at least 64-byte alignment; 0 when refused. */
  reserve(bytes: number): number
  release(address: number): void
}

/** Progress of an ordered queue: what the allocator must know to give memory back to the system. */
export interface QueueProgress {
  /** Commands enqueued so far. */
  readonly enqueued: number
  /** Commands done so far. */
  completed(): number
}

/** Figures of a device's memory, in bytes. */
export interface MemoryStats {
  /** Held by live tensors, rounded up to their size classes. */
  readonly allocatedBytes: number
  /** Taken from the system: live tensors and cache. */
  readonly reservedBytes: number
  /** The highest allocatedBytes so far. */
  readonly peakAllocatedBytes: number
  /** Live allocations. */
  readonly allocations: number
}

interface Slab {
  readonly address: number
  used: number
  live: number
}

export interface Block {
  readonly address: number
  readonly bytes: number
  readonly slab: Slab | null
  /** `enqueued` of the pool's queue when it was freed: the system may have it back once the queue got there. */
  freedAt: number
}

const MIN_BLOCK = 64
const SLAB_BYTES = 2 << 20
const LARGE_FROM = 1 << 20
const CACHE_LIMIT = 128 << 20
/** A cached large block may serve a request down to this part of its size. */
const MIN_FIT = 2 / 3

/** Exponent of the largest power of two that is not above n, for 1 <= n < 2^51. */
function log2Floor(n: number): number {
  return n < 0x80000000 ? 31 - Math.clz32(n) : 51 - Math.clz32(Math.floor(n / 0x100000))
}

/** Rounds a request up to its size class: 4 classes per power of two below 1 MiB, 8 from there on. */
export function sizeClass(bytes: number): number {
  if (bytes <= MIN_BLOCK) return MIN_BLOCK
  const octave = log2Floor(bytes - 1)
  const step = Math.max(MIN_BLOCK, 2 ** (octave - (bytes <= LARGE_FROM ? 2 : 3)))
  return Math.ceil(bytes / step) * step
}

/** Free blocks that may be handed out again in the order of one queue (or inside one graph). */
export class Pool {
  readonly #free = new Map<number, Block[]>()

  constructor(readonly queue: QueueProgress) {}

  take(bytes: number): Block | undefined {
    const exact = this.#free.get(bytes)?.pop()
    if (exact !== undefined || bytes < LARGE_FROM) return exact
    let best = Infinity
    for (const [size, blocks] of this.#free) {
      if (size > bytes && size < best && bytes >= size * MIN_FIT && blocks.length > 0) best = size
    }
    return this.#free.get(best)?.pop()
  }

  put(block: Block): void {
    block.freedAt = this.queue.enqueued
    const list = this.#free.get(block.bytes)
    if (list === undefined) this.#free.set(block.bytes, [block])
    else list.push(block)
  }

  some(wanted: (block: Block) => boolean): boolean {
    for (const blocks of this.#free.values()) if (blocks.some(wanted)) return true
    return false
  }

  /** Removes and returns the free blocks that `wanted` picks, oldest first per size. */
  drain(wanted: (block: Block) => boolean): Block[] {
    const out: Block[] = []
    for (const [size, blocks] of this.#free) {
      const keep = blocks.filter((block) => !wanted(block) || !out.push(block))
      if (keep.length === 0) this.#free.delete(size)
      else this.#free.set(size, keep)
    }
    return out
  }
}

/**
 * The caching allocator of one device. Freed memory goes back to a pool of the queue that used it and is handed out
 * again at once: the queue's order makes that safe without waiting. It returns to the system only when the queue has
 * passed the point of the free.
 *
 * Small blocks are carved from 2 MiB slabs; blocks from 1 MiB on are mapped one by one. At most 128 MiB of large free
 * blocks are kept.
 */
export class Allocator {
  readonly #source: MemorySource
  readonly #limit: number
  readonly #pools = new Map<QueueProgress, Pool>()
  readonly #slabs = new Set<Slab>()
  #open: Slab | null = null
  #cachedLarge = 0
  #allocated = 0
  #peak = 0
  #reserved = 0
  #count = 0

  /** `limit`: bytes that may be reserved in all. */
  constructor(source: MemorySource, limit: number) {
    this.#source = source
    this.#limit = limit
  }

  poolOf(queue: QueueProgress): Pool {
    let pool = this.#pools.get(queue)
    if (pool === undefined) {
      pool = new Pool(queue)
      this.#pools.set(queue, pool)
    }
    return pool
  }

  /**
   * A block of at least `bytes`, for use in the order of `pool.queue`.
   * @throws OctetError `OUT_OF_MEMORY` with the bytes asked for and the bytes in use.
   */
  allocate(bytes: number, pool: Pool): Block {
    const size = sizeClass(bytes)
    let block = pool.take(size)
    if (block === undefined) block = this.#fresh(size, bytes)
    else if (block.slab === null) this.#cachedLarge -= block.bytes
    if (block.slab !== null) block.slab.live += 1
    this.#allocated += block.bytes
    this.#peak = Math.max(this.#peak, this.#allocated)
    this.#count += 1
    return block
  }

  free(block: Block, pool: Pool): void {
    this.#allocated -= block.bytes
    this.#count -= 1
    pool.put(block)
    if (block.slab !== null) {
      block.slab.live -= 1
      return
    }
    this.#cachedLarge += block.bytes
    if (this.#cachedLarge > CACHE_LIMIT) this.#trim(this.#cachedLarge - CACHE_LIMIT)
  }

  /** Gives every cached block that no queue still needs back to the system; returns the bytes. */
  emptyCache(): number {
    let freed = this.#trim(Infinity)
    for (const slab of this.#slabs) {
      if (slab.live > 0) continue
      freed += this.#releaseSlab(slab)
    }
    return freed
  }

  /** A queue that was drained and closed leaves its free blocks to `heir`. */
  retire(queue: QueueProgress, heir: QueueProgress): void {
    const pool = this.#pools.get(queue)
    if (pool === undefined) return
    this.#pools.delete(queue)
    for (const block of pool.drain(() => true)) this.poolOf(heir).put(block)
  }

  /** Bytes that could still be allocated: free within the limit, and cached. @param free bytes that the system has left */
  room(free: number): number {
    return Math.max(0, Math.min(this.#limit - this.#allocated, free + this.#reserved - this.#allocated))
  }

  stats(): MemoryStats {
    return { allocatedBytes: this.#allocated, reservedBytes: this.#reserved, peakAllocatedBytes: this.#peak, allocations: this.#count }
  }

  #fresh(size: number, asked: number): Block {
    if (size >= LARGE_FROM) return { address: this.#reserve(size, asked), bytes: size, slab: null, freedAt: 0 }
    if (this.#open === null || this.#open.used + size > SLAB_BYTES) {
      this.#open = { address: this.#reserve(SLAB_BYTES, asked), used: 0, live: 0 }
      this.#slabs.add(this.#open)
    }
    const slab = this.#open
    const address = slab.address + slab.used
    slab.used += size
    return { address, bytes: size, slab, freedAt: 0 }
  }

  #reserve(bytes: number, asked: number): number {
    if (this.#reserved + bytes > this.#limit) this.emptyCache()
    const address = this.#reserved + bytes > this.#limit ? 0 : this.#source.reserve(bytes)
    if (address === 0) {
      throw new OctetError('OUT_OF_MEMORY', {
        op: 'allocate',
        expected: `at most ${Math.max(0, this.#limit - this.#reserved)} more bytes (${this.#reserved} of ${this.#limit} are reserved)`,
        received: `a request for ${asked} bytes`,
        hint: 'dispose tensors, await device.synchronize() so that their memory can be returned, or raise memoryLimit',
      })
    }
    this.#reserved += bytes
    return address
  }

  /** Releases large free blocks, up to about `bytes`, that their queue has passed. */
  #trim(bytes: number): number {
    let released = 0
    for (const pool of this.#pools.values()) {
      const done = pool.queue.completed()
      for (const block of pool.drain((b) => b.slab === null && b.freedAt <= done && released < bytes && (released += b.bytes) > 0)) {
        this.#source.release(block.address)
        this.#reserved -= block.bytes
        this.#cachedLarge -= block.bytes
      }
    }
    return released
  }

  /** Bytes released: none while a queue has not passed the last free inside the slab. */
  #releaseSlab(slab: Slab): number {
    const mine = (block: Block): boolean => block.slab === slab
    for (const pool of this.#pools.values()) {
      const done = pool.queue.completed()
      if (pool.some((block) => mine(block) && block.freedAt > done)) return 0
    }
    for (const pool of this.#pools.values()) pool.drain(mine)
    this.#slabs.delete(slab)
    if (this.#open === slab) this.#open = null
    this.#source.release(slab.address)
    this.#reserved -= SLAB_BYTES
    return SLAB_BYTES
  }
}
