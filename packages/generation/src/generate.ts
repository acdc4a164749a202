import type { Tokenizer } from '@octet-llm/core'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { CausalLM } from '@octet-llm/transformer'
import { Engine } from './engine/engine.js'
import type { EngineHandle } from './engine/entry.js'
import type { EngineSource } from './engine/engine-source.js'
import { assembleOutput, type GenerateOutput, type Timings } from './output.js'
import { planGeneration, type GenerationPlan } from './plan.js'
import type { PromptInput } from './prompt.js'
import { resolveSettings, type CallOptions } from './settings.js'

/** A new token. */
export interface TokenEvent {
  /** Row of the result, 0 … B·R−1. */
  readonly index: number
  readonly token: number
}

/** What a step's new tokens are told to; awaited before the next step. */
export type TokenListener = (events: readonly TokenEvent[]) => void | Promise<void>

export interface GenerateTokensOptions extends CallOptions, PromptInput {
  /** Called once a step with the new tokens, in row order; beams come when they are finished. */
  readonly onTokens?: TokenListener
  /** Needed for stop strings. */
  readonly tokenizer?: Pick<Tokenizer, 'tokenBytes'>
}

export interface GenerationHooks {
  readonly signal?: AbortSignal
  readonly onTokens?: TokenListener
  /** True ends the run after the step at hand, with what there is. */
  readonly stopRequested?: () => boolean
}

/**
 * Tokens in, tokens out.
 *
 * @throws OctetError `INVALID_ARGUMENT`, `NOT_SUPPORTED` and `CONTEXT_TOO_LONG` before anything runs; what the device
 * or the caller's functions throw; `signal.reason` unchanged when aborted; `DISPOSED` when the model is disposed before or
 * meanwhile. The cache is free in every case.
 */
export async function generateTokens(model: CausalLM, options: GenerateTokensOptions): Promise<GenerateOutput> {
  return generateOn(model, options)
}

/** {@link generateTokens} on an engine of `engines`; without them on one of its own. */
export async function generateOn(model: CausalLM, options: GenerateTokensOptions, engines?: EngineSource): Promise<GenerateOutput> {
  const settings = resolveSettings(model.info, options, options.tokenizer)
  const plan = planGeneration(model.info, settings, options)
  return runGeneration(model, plan, {
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    ...(options.onTokens === undefined ? {} : { onTokens: options.onTokens }),
  }, engines)
}

/** Times of a run: prefill ends when every request has its prompt behind it. */
class Stopwatch {
  readonly #start = performance.now()
  #prefillEnd: number | null = null
  #prefillTokens = 0
  tokens = 0

  get start(): number {
    return this.#start
  }

  afterStep(handles: readonly EngineHandle[]): void {
    if (this.#prefillEnd !== null || !handles.every((h) => h.prefilled || h.done)) return
    this.#prefillEnd = performance.now()
    this.#prefillTokens = this.tokens
  }

  timings(promptTokens: number): Timings {
    const end = performance.now()
    const prefill = ((this.#prefillEnd ?? end) - this.#start) / 1000
    const decode = (end - (this.#prefillEnd ?? end)) / 1000
    const decoded = this.tokens - this.#prefillTokens
    return {
      prefill_s: prefill,
      decode_s: decode,
      prefill_tokens_per_s: prefill > 0 ? promptTokens / prefill : 0,
      tokens_per_s: decoded > 0 && decode > 0 ? decoded / decode : 0,
    }
  }
}

/** Work on a model that its dispose() ends and waits for. @throws what the lifetime ended with */
export function whileAlive<T>(model: CausalLM, work: () => Promise<T>): Promise<T> {
  return model.lifetime === undefined ? work() : model.lifetime.during(work)
}

/** Runs a plan. See {@link generateTokens} for what it throws. */
export function runGeneration(model: CausalLM, plan: GenerationPlan, hooks: GenerationHooks, engines?: EngineSource): Promise<GenerateOutput> {
  return whileAlive(model, () => runAlive(model, plan, hooks, engines))
}

async function runAlive(model: CausalLM, plan: GenerationPlan, hooks: GenerationHooks, engines?: EngineSource): Promise<GenerateOutput> {
  hooks.signal?.throwIfAborted()
  const watch = new Stopwatch()
  const { maxTime, numBeams } = plan.settings.config
  const deadline = maxTime === null ? null : watch.start + maxTime * 1000
  const engine = engines?.acquire(plan) ?? new Engine(model, plan.engine)
  const events: TokenEvent[] = []
  let handles: readonly EngineHandle[] = []
  let whole = false
  try {
    handles = plan.requests.map((request, index) => engine.add({ ...request, deadline, onToken: (token) => events.push({ index, token }) }))
    for (let more = true; more && hooks.stopRequested?.() !== true; ) {
      more = await engine.step()
      const failed = handles.find((h) => h.failed)
      if (failed !== undefined) throw failed.error
      if (!more && numBeams > 1) events.push(...beamEvents(handles))
      const fresh = events.splice(0)
      watch.tokens += fresh.length
      watch.afterStep(handles)
      if (fresh.length > 0) await hooks.onTokens?.(fresh)
      if (!more) break
      // The event loop runs between steps: timers, sockets and whoever aborts.
      await nextTurn()
      hooks.signal?.throwIfAborted()
      model.lifetime?.signal.throwIfAborted()
    }
    whole = true
  } finally {
    if (whole && engines !== undefined) engines.release(engine, handles)
    else engine.dispose()
  }
  const promptTokens = plan.prompts.reduce((sum, p) => sum + p.tokens.length, 0)
  return assembleOutput(plan, handles.map((h) => h.outcomes), watch.timings(promptTokens))
}

function beamEvents(handles: readonly EngineHandle[]): TokenEvent[] {
  return handles
    .flatMap((h) => h.outcomes)
    .flatMap(({ tokens }, index) => tokens.map((token) => ({ index, token })))
}
