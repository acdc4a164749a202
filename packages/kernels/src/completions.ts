import type { NativeBinding } from './native.js'

/** What the native side says about a ticket. `status` indexes STATUS; 0 is success. */
export interface Outcome {
  readonly status: number
  /** Index of the op in the table, -1 when none is to blame. */
  readonly op: number
  /** Position of the command on its queue. */
  readonly sequence: number
}

/** Promises that settle when a queue reaches a point. While one is pending the process stays alive. */
export class Completions {
  readonly #native: NativeBinding
  readonly #waiting = new Map<number, (outcome: Outcome) => void>()
  #next = 1

  constructor(native: NativeBinding) {
    this.#native = native
    native.onComplete((values) => this.#deliver(values))
  }

  /** A new ticket; `settle` is called once, with its outcome. */
  issue(settle: (outcome: Outcome) => void): number {
    const ticket = this.#next++
    if (this.#waiting.size === 0) this.#native.ref()
    this.#waiting.set(ticket, settle)
    return ticket
  }

  #deliver(values: Float64Array): void {
    for (let i = 0; i + 3 < values.length; i += 4) {
      const ticket = values[i]!
      const settle = this.#waiting.get(ticket)
      this.#waiting.delete(ticket)
      settle?.({ status: values[i + 1]!, op: values[i + 2]!, sequence: values[i + 3]! })
    }
    if (this.#waiting.size === 0) this.#native.unref()
  }
}
