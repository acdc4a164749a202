import { OctetError } from '@octet-llm/core'
import type { Block } from './allocator.js'
import type { Device } from './device.js'
import type { Graph } from './graph.js'
import { watchLeak, type LeakRecord } from './leaks.js'
import type { Queue } from './queue.js'

/**
 * Device memory that one or more tensors (views) share. It is free for reuse, in its home queue's order, when the last
 * of them is disposed.
 */
export class Storage {
  readonly address: number
  readonly home: Queue
  readonly #block: Block
  readonly #record: LeakRecord
  /** Graph that owns the memory because the tensor was made inside its capture. */
  readonly owner: Graph<unknown> | null
  /** Other queues that worked on it: the home queue waits for them before the memory is used again. */
  readonly #foreign = new Set<Queue>()
  #references = 0
  /** Captured graphs that read or write this memory from outside. */
  graphs = 0

  constructor(bytes: number, home: Queue, owner: Graph<unknown> | null) {
    this.#block = owner === null ? home.device.allocator.allocate(bytes, home.device.allocator.poolOf(home)) : owner.allocate(bytes)
    this.address = this.#block.address
    this.home = home
    this.owner = owner
    this.#record = { freed: false, bytes }
    watchLeak(this, this.#record)
  }

  get device(): Device {
    return this.home.device
  }

  get freed(): boolean {
    return this.#record.freed || this.device.disposed
  }

  retain(): void {
    this.#references += 1
  }

  /** Called before a command of `queue` that touches the memory is enqueued. */
  touch(queue: Queue): void {
    if (queue !== this.home) this.#foreign.add(queue)
  }

  /** @throws OctetError `TENSOR_IN_GRAPH` when this is the last reference and a graph still needs the memory. */
  release(): void {
    if (this.freed) return
    if (this.#references === 1) {
      const capturing = this.device.capturing
      if (this.owner !== null && capturing !== this.owner) this.#refuse('belongs to a captured graph')
      if (this.graphs > 0) this.#refuse('is used by a captured graph')
      this.#free()
    }
    this.#references -= 1
  }

  /** The end of the owning graph: the memory goes with it. */
  abandon(): void {
    if (this.freed) return
    this.#record.freed = true
    this.settle(this.home.disposed ? this.device.queue : this.home)
  }

  #free(): void {
    this.#record.freed = true
    if (this.owner !== null) {
      this.owner.recycle(this.#block)
      return
    }
    const home = this.home.disposed ? this.device.queue : this.home
    this.settle(home)
    this.device.allocator.free(this.#block, this.device.allocator.poolOf(home))
  }

  /** Makes `home` wait for the other queues that worked on the memory. */
  settle(home: Queue): void {
    for (const queue of this.#foreign) if (!queue.disposed && queue !== home) home.order(queue.point())
    this.#foreign.clear()
  }

  #refuse(what: string): never {
    throw new OctetError('TENSOR_IN_GRAPH', {
      op: 'dispose',
      argument: 'tensor',
      expected: 'a tensor that no graph needs',
      received: `one that ${what}`,
      hint: 'await graph.dispose() first',
    })
  }
}
