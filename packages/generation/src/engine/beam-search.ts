/**
 * Beam search over log-probabilities, as transformers 5 does it, for one prompt and without a model: the caller
 * feeds the scores of each running beam and is told which beams go on. All sums are float32, as torch's.
 */
import { sampleWithoutReplacement, topIndices } from '../sampling/index.js'
import type { StopDecision } from './stopping.js'

/** Score of a beam that does not exist. Finite, so that sums with it stay ordered. */
const NEVER = -1e9

export interface BeamOptions {
  readonly numBeams: number
  /** How many ids end a sequence. */
  readonly eosCount: number
  readonly maxNewTokens: number
  readonly lengthPenalty: number
  readonly earlyStopping: boolean | 'never'
  /** Draws candidates instead of taking the best; `step` counts the new tokens so far, `draw` those of this step. */
  readonly uniform?: (step: number, draw: number) => number
}

export interface RunningBeam {
  /** New tokens. */
  readonly tokens: readonly number[]
  /** Sum of their log-probabilities. */
  readonly score: number
}

/** A running beam continued by one token. */
export interface BeamCandidate extends RunningBeam {
  /** The beam it continues. */
  readonly source: number
}

/** A sequence of the result; `stop` is null where an abort came first. */
export interface BeamResult extends RunningBeam {
  readonly stop: StopDecision | null
}

interface FinishedBeam extends BeamResult {
  readonly finished: boolean
}

export class BeamSearch {
  readonly #options: BeamOptions
  readonly #keep: number
  #running: readonly RunningBeam[]
  #finished: readonly FinishedBeam[]
  /** Whether a running beam may still beat the worst finished one; once false, for good. */
  #improvable = true
  #done = false
  #length = 0

  constructor(options: BeamOptions) {
    this.#options = options
    // Every EOS may be among the best of a beam, so that many more candidates leave numBeams to go on with.
    this.#keep = Math.max(2, 1 + options.eosCount) * options.numBeams
    // All beams hold the same prompt: only the first may offer candidates in the first step.
    this.#running = Array.from({ length: options.numBeams }, (_, i) => ({ tokens: [], score: i === 0 ? 0 : NEVER }))
    this.#finished = this.#running.map(() => ({ tokens: [], score: NEVER, stop: null, finished: false }))
  }

  get running(): readonly RunningBeam[] {
    return this.#running
  }

  get done(): boolean {
    return this.#done
  }

  /**
   * The continuations to consider, best first (or in drawing order).
   *
   * @param scores processed log-probabilities [V] of each running beam
   */
  candidates(scores: readonly Float32Array[]): BeamCandidate[] {
    const vocabSize = scores[0]!.length
    const sums = new Float32Array(scores.length * vocabSize)
    scores.forEach((row, beam) => {
      const base = this.#running[beam]!.score
      for (let i = 0; i < vocabSize; i++) sums[beam * vocabSize + i] = row[i]! + base
    })
    const uniform = this.#options.uniform
    const chosen = uniform === undefined
      ? topIndices(sums, this.#keep)
      : sampleWithoutReplacement(sums, this.#keep, (draw) => uniform(this.#length, draw))
    return chosen.map((index) => {
      const source = Math.floor(index / vocabSize)
      return { source, tokens: [...this.#running[source]!.tokens, index % vocabSize], score: sums[index]! }
    })
  }

  /**
   * Takes the candidates with the decision about each, and returns for every running beam of the next step the
   * beam that it continues.
   */
  commit(candidates: readonly BeamCandidate[], stops: readonly (StopDecision | null)[]): number[] {
    const { numBeams, earlyStopping } = this.#options
    this.#length += 1
    this.#finish(candidates, stops)
    const open = Float32Array.from(candidates, (c, i) => c.score + (stops[i] === null ? 0 : NEVER))
    const next = topIndices(open, numBeams)
    this.#running = next.map((i) => ({ tokens: candidates[i]!.tokens, score: open[i]! }))
    this.#improvable &&= this.#canImprove()
    const full = earlyStopping === true && this.#finished.every((b) => b.finished)
    this.#done = !this.#improvable || full || stops.every((stop) => stop !== null)
    return next.map((i) => candidates[i]!.source)
  }

  /** The best `count` sequences, best first; after an abort also unfinished ones. */
  results(count: number): BeamResult[] {
    const finished = this.#finished.filter((b) => b.finished)
    const open = this.#running
      .filter((b) => b.score > NEVER / 2)
      .map((b) => ({ tokens: b.tokens, score: this.#penalized(b.score, Math.max(1, b.tokens.length)), stop: null }))
    return [...finished, ...open].slice(0, count).map(({ tokens, score, stop }) => ({ tokens, score, stop }))
  }

  #penalized(sum: number, length: number): number {
    return Math.fround(sum / length ** this.#options.lengthPenalty)
  }

  /** Only the best numBeams candidates may finish; the best numBeams of old and new finished ones stay. */
  #finish(candidates: readonly BeamCandidate[], stops: readonly (StopDecision | null)[]): void {
    const { numBeams, earlyStopping } = this.#options
    const closed = !this.#improvable || (earlyStopping === true && this.#finished.every((b) => b.finished))
    const merged: FinishedBeam[] = [...this.#finished]
    candidates.forEach((c, i) => {
      const stop = stops[i] ?? null
      const finished = stop !== null && i < numBeams
      if (finished && !closed) merged.push({ tokens: c.tokens, score: this.#penalized(c.score, this.#length), stop, finished })
    })
    const best = topIndices(Float32Array.from(merged, (b) => b.score), numBeams)
    this.#finished = best.map((i) => merged[i]!)
  }

  /**
   * The best running beam's score, were it to end now (or, for 'never' with a positive penalty, at full length),
   * against the worst finished one.
   */
  #canImprove(): boolean {
    const { earlyStopping, lengthPenalty, maxNewTokens } = this.#options
    if (!this.#finished.every((b) => b.finished)) return true
    const length = earlyStopping === 'never' && lengthPenalty > 0 ? maxNewTokens : this.#length
    const worst = Math.min(...this.#finished.map((b) => b.score))
    return this.#penalized(this.#running[0]!.score, length) > worst
  }
}
