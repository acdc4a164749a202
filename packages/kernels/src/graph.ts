import { OctetError } from '@octet-llm/core'
import { Pool, sizeClass, type Block } from './allocator.js'
import type { NativeGraph } from './native.js'
import type { Event, Queue } from './queue.js'
import type { Runtime } from './runtime.js'
import type { Scoped } from './scope.js'
import type { Storage } from './storage.js'

/** What a graph does to the tensor handles that were made inside its capture. */
export interface GraphTensor extends Scoped {
  readonly storage: Storage
  abandon(): void
}

/**
 * A recorded list of ops, from {@link Queue.capture}. `replay()` enqueues all of them in one call, with no JavaScript
 * per op. The graph has its own memory: tensors made inside the capture keep their addresses from replay to replay and
 * die with the graph.
 */
export class Graph<T> {
  readonly #runtime: Runtime
  readonly #pool: Pool
  readonly #blocks: Block[] = []
  readonly #outside = new Set<Storage>()
  #native: NativeGraph | null = null
  #made: GraphTensor[] = []
  #value: T | undefined
  #last: { queue: Queue; event: Event } | null = null
  #disposed = false
  /** The queue that recorded it. */
  readonly queue: Queue

  /** @internal Use `queue.capture(fn)`. */
  constructor(queue: Queue, runtime: Runtime) {
    this.queue = queue
    this.#runtime = runtime
    this.#pool = new Pool(queue)
  }

  /** What `fn` returned; its tensors hold the results of the last replay. */
  get value(): T {
    this.#check('value')
    return this.#value as T
  }

  get disposed(): boolean {
    return this.#disposed || this.queue.device.disposed
  }

  /**
   * Enqueues the recorded ops on `queue` (default: the recording one). Replays of one graph run in the order of the
   * calls, on whichever queues.
   * @throws OctetError `DISPOSED`; `INVALID_ARGUMENT` for a queue of another device or inside a capture.
   */
  replay(queue: Queue = this.queue): void {
    this.#check('replay')
    queue.check('replay')
    if (queue.device !== this.queue.device || queue.device.capturing !== null) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'replay', argument: 'queue', expected: "a queue of the graph's device outside capture", received: 'another' })
    }
    for (const storage of this.#outside) storage.touch(queue)
    if (this.#last !== null && this.#last.queue !== queue) queue.order(this.#last.event, true)
    else if (this.#last === null && queue !== this.queue) queue.order(this.queue.point(), true)
    this.#runtime.native.replay(queue.id, this.#native!)
    queue.count(false)
    if (queue !== this.queue || this.#last !== null) this.#last = { queue, event: queue.point() }
  }

  /**
   * Waits for replays in flight, then frees the graph's memory and lets go of the tensors from outside. Idempotent.
   */
  async dispose(): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    if (!this.queue.device.disposed && !this.queue.disposed && this.#last !== null && this.#last.queue !== this.queue) {
      this.queue.order(this.#last.event)
    }
    this.discard()
    if (!this.queue.disposed) await this.queue.mark().catch(() => undefined)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }

  #check(op: string): void {
    if (this.disposed) throw new OctetError('DISPOSED', { op, argument: 'graph', expected: 'a live graph', received: 'a disposed one' })
  }

  // ---- for the package ----

  /** @internal Memory for a tensor made inside the capture. */
  allocate(bytes: number): Block {
    const reused = this.#pool.take(sizeClass(bytes))
    if (reused !== undefined) return reused
    const { allocator } = this.queue.device
    const block = allocator.allocate(bytes, allocator.poolOf(this.queue))
    this.#blocks.push(block)
    return block
  }

  /** @internal A tensor made and disposed inside the capture: later ops of the graph may use its memory. */
  recycle(block: Block): void {
    this.#pool.put(block)
  }

  /** @internal An op of the graph uses this memory. */
  use(storage: Storage): void {
    if (storage.owner === this || this.#outside.has(storage)) return
    this.#outside.add(storage)
    storage.graphs += 1
  }

  /** @internal */
  complete(value: T, made: readonly Scoped[], native: NativeGraph): void {
    this.#value = value
    this.#made = made as GraphTensor[]
    this.#native = native
  }

  /** @internal Gives everything back; queue order protects replays in flight. */
  discard(): void {
    for (const tensor of this.#made) tensor.abandon()
    for (const storage of this.#outside) storage.graphs -= 1
    this.#outside.clear()
    this.#made = []
    this.#value = undefined
    if (this.#native !== null) this.#runtime.native.releaseGraph(this.#native)
    this.#native = null
    const { device } = this.queue
    if (device.disposed) return
    const home = this.queue.disposed ? device.queue : this.queue
    for (const block of this.#blocks) device.allocator.free(block, device.allocator.poolOf(home))
    this.#blocks.length = 0
  }
}
