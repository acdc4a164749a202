/** What a processor knows beside the scores. */
export interface ProcessorContext {
  /** The row so far: the prompt as it was given, left pads included (as in transformers), then the new tokens. */
  readonly ids: readonly number[]
  /** Ids of the prompt within `ids`, pads included. */
  readonly promptLength: number
  /** Number of the sequence within the call; in beam search, of the prompt. */
  readonly sequence: number
}

/**
 * Edits one row of scores [V] in place: logits in greedy and sampling, log-probabilities in beam search.
 * Must be synchronous.
 */
export type LogitsProcessor = (scores: Float32Array, context: ProcessorContext) => void

/** The ids that may follow `ids`; every other token is banned. */
export type PrefixAllowedTokens = (sequence: number, ids: readonly number[]) => readonly number[]
