import { OctetError } from '@octet-llm/core'
import type { Outcome } from './completions.js'
import type { Device } from './device.js'
import { captureStacks, failureError, isLost, lostDevice } from './failure.js'
import { Graph } from './graph.js'
import type { NativeEvent } from './native.js'
import type { Runtime } from './runtime.js'
import { collect, isThenable } from './scope.js'

/** Stacks kept for the newest commands when OCTET_DEBUG=stacks is set. */
const STACKS_KEPT = 4096

/** A point in a queue's order, from {@link Queue.record}. */
export class Event {
  /** @internal */
  constructor(
    readonly queue: Queue,
    readonly native: NativeEvent,
    private readonly runtime: Runtime,
  ) {}

  /** Whether the queue has reached the point. */
  get done(): boolean {
    return this.runtime.native.eventDone(this.native)
  }
}

/**
 * An ordered stream of work on a device. Ops are enqueued and return at once; a native thread runs them one after
 * another. Two queues run side by side and meet only at events.
 */
export class Queue {
  readonly device: Device
  /** @internal Id in the addon. */
  readonly id: number
  readonly #runtime: Runtime
  readonly #stacks = new Map<number, string>()
  #enqueued = 0
  #cleared = -1
  #disposed = false

  /** @internal Use `device.queue` or `device.createQueue()`. */
  constructor(device: Device, runtime: Runtime, id: number) {
    this.device = device
    this.#runtime = runtime
    this.id = id
  }

  /** Commands enqueued so far: ops, copies, events and reads. */
  get enqueued(): number {
    return this.#enqueued
  }

  /** Commands done so far. */
  completed(): number {
    return this.#disposed ? this.#enqueued : this.#runtime.native.completed(this.id)
  }

  /** Commands enqueued and not yet done. */
  get pending(): number {
    return this.#enqueued - this.completed()
  }

  get disposed(): boolean {
    return this.#disposed || this.device.disposed
  }

  /**
   * Resolves when everything enqueued so far is done.
   * @throws OctetError `OP_FAILED` (or the code that fits) naming the first op that failed since the last sync or read;
   * `CAPTURE_READ` inside capture; `DISPOSED`.
   */
  async synchronize(): Promise<void> {
    this.checkReadable('synchronize')
    await this.mark()
  }

  /**
   * Marks this point of the order, for {@link wait} on another queue.
   * @throws OctetError `CAPTURE_READ` inside capture; `DISPOSED`.
   */
  record(): Event {
    this.checkReadable('record')
    return this.point()
  }

  /**
   * Later commands of this queue start only when `event` is reached. If the other queue has a failed op, this one
   * fails too at its next sync.
   * @throws OctetError `CAPTURE_READ` inside capture; `INVALID_ARGUMENT` for an event of another device; `DISPOSED`.
   */
  wait(event: Event): void {
    this.checkReadable('wait')
    if (event.queue.device !== this.device) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'wait', argument: 'event', expected: `an event of ${this.device.name}`, received: 'one of another device' })
    }
    this.order(event, true)
  }

  /**
   * Runs `fn` with every op it enqueues recorded instead of executed. {@link Graph.replay} then enqueues them all in one
   * call. Nothing is computed until the first replay. Tensors made inside belong to the graph; tensors from outside that
   * it uses cannot be disposed before it.
   *
   * @throws OctetError `INVALID_ARGUMENT` when captures nest, `fn` returns a promise or uses another queue;
   * `CAPTURE_READ` when `fn` reads, waits or writes host data; `DISPOSED`.
   */
  capture<T>(fn: () => T): Graph<T> {
    this.check('capture')
    const { device } = this
    if (device.capturing !== null) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'capture', argument: 'fn', expected: 'no capture in progress', received: 'a capture inside a capture' })
    }
    const graph = new Graph<T>(this, this.#runtime)
    device.capturing = graph
    this.#runtime.native.beginCapture(this.id)
    try {
      const { value, made } = collect(() => {
        const result = fn()
        if (isThenable(result)) {
          throw new OctetError('INVALID_ARGUMENT', { op: 'capture', argument: 'fn', expected: 'a synchronous function', received: 'one that returns a promise' })
        }
        return result
      })
      graph.complete(value, made, this.#runtime.native.endCapture(this.id))
      return graph
    } catch (error) {
      this.#runtime.native.endCapture(this.id)
      graph.discard()
      throw error
    } finally {
      device.capturing = null
    }
  }

  /** Waits for work in flight (its failures are dropped), then ends the queue's threads. Idempotent. */
  async dispose(): Promise<void> {
    if (this === this.device.queue) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'dispose', argument: 'queue', expected: 'a queue from createQueue()', received: "the device's own queue", hint: 'dispose the device' })
    }
    await this.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }

  // ---- for the package ----

  /** @internal */
  async close(): Promise<void> {
    if (this.#disposed) return
    await this.mark().catch(() => undefined)
    if (this.#disposed) return
    this.#disposed = true
    if (this !== this.device.queue) this.device.retire(this)
    this.#runtime.native.destroyQueue(this.id)
  }

  /** @internal Counts a command that was just enqueued; `stack` is kept under its sequence number. */
  count(recorded: boolean): void {
    if (recorded) return
    if (captureStacks) {
      this.#stacks.set(this.#enqueued, new Error().stack ?? '')
      this.#stacks.delete(this.#enqueued - STACKS_KEPT)
    }
    this.#enqueued += 1
  }

  /** @internal An event without the checks of {@link record}. */
  point(): Event {
    const event = new Event(this, this.#runtime.native.record(this.id), this.#runtime)
    this.count(false)
    return event
  }

  /**
   * @internal Like {@link wait}, also inside capture: it orders the queue itself, not the graph. Without `inherit` only
   * memory depends on the other queue, and its failure stays its own.
   */
  order(event: Event, inherit = false): void {
    this.#runtime.native.wait(this.id, event.native, inherit)
    this.count(false)
  }

  /** @internal Resolves at this point of the order, or rejects with the queue's failure. */
  mark(): Promise<void> {
    return new Promise((resolve, reject) => {
      const ticket = this.#runtime.completions.issue((outcome) => {
        if (outcome.status === 0) resolve()
        else reject(this.#report(outcome))
      })
      this.#runtime.native.mark(this.id, ticket)
      this.count(false)
    })
  }

  /** @internal A ticket whose command reports its own outcome instead of failing the queue. */
  ticket(op: string): { ticket: number; done: Promise<void> } {
    let ticket = 0
    const done = new Promise<void>((resolve, reject) => {
      ticket = this.#runtime.completions.issue((outcome) => {
        if (outcome.status === 0) resolve()
        else {
          if (isLost(outcome)) this.device.lost = true
          reject(failureError(outcome, this.#stacks.get(outcome.sequence), op))
        }
      })
    })
    return { ticket, done }
  }

  /** @internal */
  check(op: string): void {
    if (this.disposed) throw new OctetError('DISPOSED', { op, argument: 'queue', expected: 'a live queue', received: 'a disposed one' })
    if (this.device.lost) throw lostDevice(op)
  }

  /** @internal */
  checkReadable(op: string): void {
    this.check(op)
    if (this.device.capturing === null) return
    throw new OctetError('CAPTURE_READ', {
      op,
      expected: 'ops only inside queue.capture()',
      received: 'a host read, write or wait',
      hint: 'read after replay(); write inputs before it',
    })
  }

  /** Every pending sync learns of the failure; what is enqueued from now on runs again. */
  #report(outcome: Outcome): OctetError {
    if (isLost(outcome)) this.device.lost = true
    if (outcome.sequence > this.#cleared && !this.disposed) {
      this.#cleared = outcome.sequence
      this.#runtime.native.clearFailure(this.id)
      this.count(false)
    }
    return failureError(outcome, this.#stacks.get(outcome.sequence))
  }
}
