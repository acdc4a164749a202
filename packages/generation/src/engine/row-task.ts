import { OctetError } from '@octet-llm/core'
import { buildProcessors, deviceSelection, type ProcessorOptions } from '../processors/build.js'
import type { LogitsProcessor, ProcessorContext } from '../processors/types.js'
import { argmax, maxScore, sampleToken } from '../sampling/index.js'
import { StopRules, StopStrings } from './stopping.js'
import type { CachedSequence, CacheEdit, Decoding, DrawPosition, EngineRequest, Outcome, Selection, Task } from './task.js'

const NO_EDIT: CacheEdit = {}

/** The stop rules of a request. @throws OctetError `INVALID_ARGUMENT` when stop strings come without token bytes. */
export function stopRulesOf(request: EngineRequest): StopRules {
  const strings = request.config.stopStrings
  if (strings.length > 0 && request.tokenBytes === undefined) {
    throw new OctetError('INVALID_ARGUMENT', {
      op: 'generate', argument: 'stopStrings', expected: 'a tokenizer beside them', received: 'none',
      hint: 'pass the tokenizer of the model',
    })
  }
  return new StopRules({
    eosTokenIds: request.eosTokenIds,
    maxNewTokens: request.maxNewTokens,
    stopStrings: strings.length > 0 ? new StopStrings(strings, request.tokenBytes!) : null,
    criteria: request.criteria ?? [],
    deadline: request.deadline ?? null,
  })
}

export function processorOptionsOf(request: EngineRequest): ProcessorOptions {
  return {
    eosTokenIds: request.eosTokenIds,
    maxLength: (request.row ?? request.tokens).length + request.maxNewTokens,
    ...(request.processors === undefined ? {} : { user: request.processors }),
    ...(request.prefixAllowedTokens === undefined ? {} : { prefixAllowedTokens: request.prefixAllowedTokens }),
  }
}

/** Runs processors over a row's scores, refusing ones that answer with a Promise. */
export function applyProcessors(processors: readonly LogitsProcessor[], scores: Float32Array, context: ProcessorContext): void {
  for (const processor of processors) {
    const answer: unknown = processor(scores, context)
    if (answer instanceof Promise) {
      throw new OctetError('INVALID_ARGUMENT', {
        op: 'generate', argument: 'logitsProcessors', expected: 'functions that edit the scores and return', received: 'a Promise',
        hint: 'make the processor synchronous',
      })
    }
  }
}

/** @throws OctetError `INVALID_ARGUMENT` when the processors have left no token. */
export function refuseAllBanned(best: number, position: number): void {
  if (best > -Infinity) return
  throw new OctetError('INVALID_ARGUMENT', {
    op: 'generate', argument: 'logitsProcessors', expected: 'at least one token that may follow', received: `none at position ${position}`,
    hint: 'loosen badWordsIds, noRepeatNgramSize, prefixAllowedTokens or your own processors',
  })
}

/** One greedy or sampled sequence. */
export class RowTask implements Task {
  readonly maxRows = 1
  readonly maxTokens: number
  readonly selection: Selection
  readonly #request: EngineRequest
  readonly #stops: StopRules
  readonly #processors: readonly LogitsProcessor[]
  readonly #sequence: CachedSequence
  readonly #row: number[]
  readonly #promptLength: number
  readonly #newTokens: number[] = []
  #outcome: Outcome | null = null

  constructor(request: EngineRequest, id: number) {
    this.#request = request
    this.#stops = stopRulesOf(request)
    const options = processorOptionsOf(request)
    const device = deviceSelection(request.config, options)
    if (device === null) this.selection = { kind: 'logits' }
    else if (device === 'argmax') this.selection = { kind: 'argmax' }
    else this.selection = { kind: 'sample', sampling: device, seed: request.seed }
    this.#processors = device === null ? buildProcessors(request.config, options) : []
    this.#sequence = { id, ids: [...request.tokens], cached: 0 }
    this.#row = [...(request.row ?? request.tokens)]
    this.#promptLength = this.#row.length
    // The last new token is never fed back.
    this.maxTokens = request.tokens.length + request.maxNewTokens - 1
  }

  get sequences(): readonly CachedSequence[] {
    return [this.#sequence]
  }

  get done(): boolean {
    return this.#outcome !== null
  }

  get outcomes(): readonly Outcome[] {
    return this.#outcome === null ? [] : [this.#outcome]
  }

  get decoding(): Decoding {
    const { config, criteria, maxNewTokens, eosTokenIds, sequence } = this.#request
    const { selection } = this
    return {
      remaining: maxNewTokens - this.#newTokens.length,
      eosTokenIds,
      selection: selection.kind === 'argmax' || selection.kind === 'sample' ? selection : null,
      needsHost: config.stopStrings.length > 0 || (criteria ?? []).length > 0,
      sequence,
    }
  }

  get draw(): DrawPosition {
    return { sequence: this.#request.sequence, position: this.#sequence.ids.length }
  }

  async acceptScores([scores]: readonly Float32Array[]): Promise<CacheEdit> {
    applyProcessors(this.#processors, scores!, this.#context())
    refuseAllBanned(maxScore(scores!), this.#sequence.ids.length)
    const id = this.#request.config.doSample ? sampleToken(scores!, { seed: this.#request.seed, ...this.draw }) : argmax(scores!)
    return this.acceptToken(id)
  }

  async acceptToken(id: number): Promise<CacheEdit> {
    this.#sequence.ids.push(id)
    this.#row.push(id)
    this.#newTokens.push(id)
    this.#request.onToken?.(id)
    await this.#stops.load(this.#sequence.ids)
    const stop = this.#stops.check(this.#sequence.ids, this.#newTokens.length, this.#context())
    if (stop !== null && !this.done) {
      const { reason, ...rest } = stop
      this.#outcome = { tokens: this.#newTokens, finishReason: reason, ...rest }
    }
    return NO_EDIT
  }

  abort(): void {
    this.#outcome ??= { tokens: this.#newTokens, finishReason: 'aborted' }
  }

  #context(): ProcessorContext {
    return { ids: this.#row, promptLength: this.#promptLength, sequence: this.#request.sequence }
  }
}
