import type { Outcome, Task } from './task.js'

/** A request in the engine. It never rejects: look at `error`. */
export interface EngineHandle {
  readonly done: boolean
  /** Whether its whole prompt has been computed. */
  readonly prefilled: boolean
  /** Once done without error: one sequence, or numReturnSequences beams. */
  readonly outcomes: readonly Outcome[]
  readonly failed: boolean
  /** Why it failed. */
  readonly error: unknown
}

/** Engine's record of a request. */
export class Entry implements EngineHandle {
  readonly task: Task
  readonly pages: number
  error: unknown = undefined
  failed = false
  prefilled = false

  constructor(task: Task, pages: number) {
    this.task = task
    this.pages = pages
  }

  get done(): boolean {
    return this.failed || this.task.done
  }

  get outcomes(): readonly Outcome[] {
    return this.task.outcomes
  }

  fail(error: unknown): void {
    this.failed = true
    this.error = error
  }
}
