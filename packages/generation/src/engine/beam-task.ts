import { philoxUniform } from '@octet-llm/core'
import { buildProcessors } from '../processors/build.js'
import type { LogitsProcessor, ProcessorContext } from '../processors/types.js'
import { BeamSearch, type BeamCandidate } from './beam-search.js'
import { applyProcessors, processorOptionsOf, refuseAllBanned, stopRulesOf } from './row-task.js'
import type { StopDecision, StopRules } from './stopping.js'
import type { CachedSequence, CacheEdit, DrawPosition, EngineRequest, Outcome, Selection, Task } from './task.js'

/**
 * Beam search over one prompt. The prompt is computed once; the other beams fork from it after the first step, and
 * each later step tells the cache which row every beam goes on with.
 */
export class BeamTask implements Task {
  readonly maxRows: number
  readonly maxTokens: number
  /** Beams fork and reorder between steps. */
  readonly decoding = null
  readonly selection: Selection = { kind: 'logProbs' }
  readonly #request: EngineRequest
  readonly #stops: StopRules
  readonly #processors: readonly LogitsProcessor[]
  readonly #search: BeamSearch
  readonly #ids: readonly number[]
  readonly #row: readonly number[]
  #sequences: CachedSequence[]
  #outcomes: readonly Outcome[] | null = null

  constructor(request: EngineRequest, ids: readonly number[]) {
    const { config, seed, sequence, tokens } = request
    this.#request = request
    this.#stops = stopRulesOf(request)
    this.#processors = buildProcessors(config, processorOptionsOf(request))
    this.#search = new BeamSearch({
      numBeams: config.numBeams,
      eosCount: request.eosTokenIds.length,
      maxNewTokens: request.maxNewTokens,
      lengthPenalty: config.lengthPenalty,
      earlyStopping: config.earlyStopping,
      ...(config.doSample
        ? { uniform: (step: number, draw: number) => philoxUniform(seed, sequence, tokens.length + step, draw) }
        : {}),
    })
    this.#ids = ids
    this.#row = request.row ?? tokens
    this.#sequences = [{ id: ids[0]!, ids: [...tokens], cached: 0 }]
    this.maxRows = config.numBeams
    this.maxTokens = tokens.length + request.maxNewTokens - 1
  }

  get sequences(): readonly CachedSequence[] {
    return this.#sequences
  }

  get done(): boolean {
    return this.#outcomes !== null
  }

  get outcomes(): readonly Outcome[] {
    return this.#outcomes ?? []
  }

  get draw(): DrawPosition {
    return { sequence: this.#request.sequence, position: this.#request.tokens.length + this.#search.running[0]!.tokens.length }
  }

  async acceptToken(): Promise<CacheEdit> {
    return {}
  }

  async acceptScores(rows: readonly Float32Array[]): Promise<CacheEdit> {
    const first = this.#sequences.length === 1 && this.maxRows > 1
    const running = this.#search.running
    const scores = rows.map((row, beam) => this.#score(row, running[beam]!.tokens))
    // In the first step every beam stands after the same prompt, so one row of scores is all of theirs.
    const candidates = this.#search.candidates(first ? running.map(() => scores[0]!) : scores)
    refuseAllBanned(candidates[0]?.score ?? -Infinity, this.draw.position)
    const stops: (StopDecision | null)[] = []
    for (const candidate of candidates) stops.push(await this.#stop(candidate))
    const sources = this.#search.commit(candidates, stops)
    if (this.done) return {}
    if (this.#search.done) {
      this.#finish()
      return {}
    }
    return this.#continue(sources, first)
  }

  abort(): void {
    if (!this.done) this.#finish('aborted')
  }

  #score(logProbs: Float32Array, newTokens: readonly number[]): Float32Array {
    if (this.#processors.length > 0) applyProcessors(this.#processors, logProbs, this.#context(newTokens))
    return logProbs
  }

  async #stop({ tokens }: BeamCandidate): Promise<StopDecision | null> {
    const ids = [...this.#request.tokens, ...tokens]
    await this.#stops.load(ids)
    return this.#stops.check(ids, tokens.length, this.#context(tokens))
  }

  #context(newTokens: readonly number[]): ProcessorContext {
    return { ids: [...this.#row, ...newTokens], promptLength: this.#row.length, sequence: this.#request.sequence }
  }

  /** Gives each running beam its row: by a fork of the prompt's in the first step, by a reorder later. */
  #continue(sources: readonly number[], first: boolean): CacheEdit {
    const prompt = this.#request.tokens
    const cached = this.#sequences[0]!.cached
    this.#sequences = this.#search.running.map((beam, i) => ({ id: this.#ids[i]!, ids: [...prompt, ...beam.tokens], cached }))
    if (first) return { fork: new Map(this.#ids.slice(1).map((id) => [id, this.#ids[0]!])) }
    return { reorder: new Map(sources.map((source, beam) => [this.#ids[beam]!, this.#ids[source]!])) }
  }

  /** @param cut 'aborted' where the search has not come to its end: also a finished beam is then a guess. */
  #finish(cut?: 'aborted'): void {
    this.#outcomes = this.#search.results(this.#request.config.numReturnSequences).map(({ tokens, score, stop }) => ({
      tokens,
      score,
      finishReason: cut ?? stop?.reason ?? 'aborted',
      ...(cut !== undefined || stop?.stopString === undefined ? {} : { stopString: stop.stopString }),
    }))
  }
}
