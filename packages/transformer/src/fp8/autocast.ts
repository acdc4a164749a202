import { OctetError } from '@octet-llm/core'
import { parseRecipe, type Recipe } from '@octet-llm/fp8-recipe'

import type { Fp8Context } from './context.js'
import { refuseFp8Mha } from './inference.js'
import type { LinearRecipeState } from './recipe-state.js'

export interface AutocastOptions {
  /** Default true. */
  readonly enabled?: boolean
  /** A recipe or its name. Default: DelayedScaling with its defaults. */
  readonly recipe?: Recipe | string
  /** Records amaxes for delayed scaling without quantizing anything. Default false. */
  readonly calibrating?: boolean
  /**
   * true quantizes weights and keeps them; false takes those that were kept; undefined quantizes them in every forward.
   */
  readonly isFirstMicrobatch?: boolean
  /** The context around this one: delayed scales that both touch are updated once, when the outermost ends. */
  readonly within?: AutocastContext
}

/** The {@link Fp8Context} of one {@link autocast}. */
export class AutocastContext implements Fp8Context {
  readonly enabled: boolean
  readonly recipe: Recipe
  readonly calibrating: boolean
  readonly isFirstMicrobatch: boolean | undefined
  readonly #outer: AutocastContext | undefined
  readonly #touched = new Set<LinearRecipeState>()
  #ended = false
  #settled: Promise<void> = Promise.resolve()

  constructor(options: AutocastOptions) {
    this.enabled = options.enabled ?? true
    this.recipe = typeof options.recipe === 'object' ? options.recipe : parseRecipe(options.recipe ?? 'delayed')
    refuseFp8Mha(this.recipe)
    if (this.recipe.kind === 'delayed' && this.recipe.fp8Dpa) {
      throw new OctetError('RECIPE_NOT_SUPPORTED', { op: 'autocast', argument: 'recipe.fp8Dpa', expected: 'false with DelayedScaling: no history is kept of attention inputs', received: 'true', hint: 'use Float8CurrentScaling' })
    }
    this.calibrating = options.calibrating ?? false
    this.isFirstMicrobatch = options.isFirstMicrobatch
    this.#outer = options.within
  }

  /**
   * Resolves once the delayed scales that the end of the context updates are in place. They are updated on the device, in
   * order with all other work; only where a recipe holds a function of one's own the host has a part, and the modules
   * refuse to run before.
   */
  get settled(): Promise<void> {
    return this.#outer?.settled ?? this.#settled
  }

  /** A state to update at the end. @throws OctetError `INVALID_ARGUMENT` after it */
  touch(state: LinearRecipeState): void {
    if (this.#ended) throw new OctetError('INVALID_ARGUMENT', { op: 'autocast', argument: 'ctx', expected: 'a context whose function still runs', received: 'one that has ended', hint: 'use ctx inside fn only' })
    if (this.#outer === undefined) this.#touched.add(state)
    else this.#outer.touch(state)
  }

  /** @param update false after a failure: what was recorded stays for the next time */
  end(update: boolean): void {
    this.#ended = true
    if (!update || this.#outer !== undefined) return
    const waits = [...this.#touched].map((state) => state.update()).filter((wait) => wait !== undefined)
    this.#settled = Promise.all(waits).then(() => undefined)
    // Whoever awaits it gets the failure of a function of the recipe; nobody has to.
    this.#settled.catch(() => undefined)
  }
}

/**
 * Calls `fn` with a context that makes the modules it is passed to compute in FP8 by the recipe. Delayed scales of those
 * modules are updated at the end of the outermost context, on the device (see {@link AutocastContext.settled} for recipes
 * with functions of one's own). Contexts are explicit: what runs with one is not seen by what runs with another.
 * @throws OctetError `INVALID_ARGUMENT` when `fn` returns a promise (forward only enqueues: read results outside);
 * `RECIPE_NOT_SUPPORTED` for fp8Mha, and fp8Dpa with DelayedScaling; what `fn` throws
 */
export function autocast<T>(options: AutocastOptions, fn: (ctx: AutocastContext) => T): T {
  const ctx = new AutocastContext(options)
  let completed = false
  try {
    const result = fn(ctx)
    if (isThenable(result)) {
      result.then(undefined, () => undefined)
      throw new OctetError('INVALID_ARGUMENT', { op: 'autocast', argument: 'fn', expected: 'a function that returns its result at once', received: 'one that returns a promise', hint: 'enqueue inside fn, await outside' })
    }
    completed = true
    return result
  } finally {
    ctx.end(completed)
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}
