import type { GenerationConfig } from '../config/generation-config.js'
import type { DeviceSampling } from '../processors/build.js'
import type { LogitsProcessor, PrefixAllowedTokens } from '../processors/types.js'
import type { FinishReason, StoppingCriterion, TokenBytes } from './stopping.js'

/** One prompt for the engine to continue. */
export interface EngineRequest {
  /** What the model reads, without pads: at least one id. */
  readonly tokens: readonly number[]
  /** The prompt as processors and `ids` show it, left pads included. Default: `tokens`. */
  readonly row?: readonly number[]
  readonly config: GenerationConfig
  /** Most new tokens, ≥ 1. */
  readonly maxNewTokens: number
  /** Ids that end a sequence. Empty to ignore EOS. */
  readonly eosTokenIds: readonly number[]
  /** Seed of the draws, a whole number below 2^53. */
  readonly seed: number
  /** Number of the sequence: the draws of two requests with equal seed and sequence are the same. */
  readonly sequence: number
  readonly processors?: readonly LogitsProcessor[]
  readonly prefixAllowedTokens?: PrefixAllowedTokens
  readonly criteria?: readonly StoppingCriterion[]
  /** Needed by `config.stopStrings`. */
  readonly tokenBytes?: TokenBytes
  /** performance.now() after which the request ends; null for never. */
  readonly deadline?: number | null
  /** Called for each new token of a greedy or sampled sequence; never in beam search. */
  readonly onToken?: (id: number) => void
}

/** One sequence of a result. */
export interface Outcome {
  /** New tokens, the one that ended the sequence included. */
  readonly tokens: readonly number[]
  readonly finishReason: FinishReason
  /** The stop string that ended it. */
  readonly stopString?: string
  /** Beam search: sum of log-probabilities / length^lengthPenalty. */
  readonly score?: number
}

/** A row of the cache that a task owns. */
export interface CachedSequence {
  readonly id: number
  /** Tokens that the row shall hold: those past `cached` go into the coming steps. */
  ids: number[]
  /** Tokens that the cache holds. */
  cached: number
}

/** What the cache must do before the next step. */
export interface CacheEdit {
  /** New sequence id → the sequence it copies. */
  readonly fork?: ReadonlyMap<number, number>
  /** Sequence id → the sequence whose tokens it goes on with. */
  readonly reorder?: ReadonlyMap<number, number>
}

/** A choice that needs nothing from the host. */
export type DeviceSelection =
  | { readonly kind: 'argmax' }
  | { readonly kind: 'sample'; readonly sampling: DeviceSampling; readonly seed: number }

/** What a task of one row tells those who run several of its steps at once. */
export interface Decoding {
  /** New tokens it may still have, ≥ 1. */
  readonly remaining: number
  readonly eosTokenIds: readonly number[]
  /** Null: the host chooses. */
  readonly selection: DeviceSelection | null
  /** Whether the host must see each token before the next one: stop strings, the caller's criteria. */
  readonly needsHost: boolean
  /** Number of the sequence, for its draws. */
  readonly sequence: number
}

/** How the next token is chosen: by a device op, or on the host from logits or log-probabilities. */
export type Selection =
  | DeviceSelection
  | { readonly kind: 'logits' }
  | { readonly kind: 'logProbs' }

/** Draw of a device-sampled row. */
export interface DrawPosition {
  readonly sequence: number
  readonly position: number
}

/** A request inside the engine: which rows it holds, and what a step's results do to it. */
export interface Task {
  /** Most rows it will hold. */
  readonly maxRows: number
  /** Most tokens that one of its rows will hold. */
  readonly maxTokens: number
  readonly selection: Selection
  /** Rows it holds in the cache now. */
  readonly sequences: readonly CachedSequence[]
  readonly done: boolean
  readonly outcomes: readonly Outcome[]
  /** Null where a step is more than one token of one row: beams. */
  readonly decoding: Decoding | null
  /** For selection kind 'sample'. */
  readonly draw: DrawPosition
  /** Takes the token that the device chose. */
  acceptToken(id: number): Promise<CacheEdit>
  /** Takes the logits, or log-probabilities, [V] of each of its sequences, in their order; may overwrite them. */
  acceptScores(rows: readonly Float32Array[]): Promise<CacheEdit>
  /** Ends it now, with what it has. */
  abort(): void
}
