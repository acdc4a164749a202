/**
 * The time in which something may be worked with: once it ends, work that runs is told to stop and waited for, and none
 * begins.
 */
export class Lifetime {
  readonly #controller = new AbortController()
  readonly #running = new Set<Promise<unknown>>()

  /** Aborted when the end comes. Its reason is what work ends with. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /**
   * Runs `work`, which looks at {@link signal} between its steps; {@link end} waits for it.
   * @throws the reason of the end for work that comes after it
   */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.signal.throwIfAborted()
    const running = work()
    this.#running.add(running)
    try {
      return await running
    } finally {
      this.#running.delete(running)
    }
  }

  /** Resolves when nothing runs any more; how work ended is its caller's to see. A later call keeps the first reason. */
  async end(reason: unknown): Promise<void> {
    this.#controller.abort(reason)
    await Promise.allSettled(this.#running)
  }
}
