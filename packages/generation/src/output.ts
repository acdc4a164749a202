import type { FinishReason } from './engine/stopping.js'
import type { Outcome } from './engine/task.js'
import type { GenerationPlan } from './plan.js'

export interface Usage {
  /** Tokens of the prompts, pads left out. */
  readonly promptTokens: number
  /** New tokens of the returned sequences, pads left out. */
  readonly completionTokens: number
  readonly totalTokens: number
}

/** Seconds, and tokens a second. */
export interface Timings {
  /** Until every prompt had its first token. */
  readonly prefill_s: number
  /** From then to the end. */
  readonly decode_s: number
  /** Prompt tokens / prefill_s. */
  readonly prefill_tokens_per_s: number
  /** Tokens of decode / decode_s; 0 where there was no decode. */
  readonly tokens_per_s: number
}

export interface GenerateOutput {
  /** [B·R][…] all of one width: prompt with its left pads, new tokens, pads. R is numReturnSequences. */
  readonly sequences: number[][]
  /** [B·R] new tokens alone, the one that ended a sequence included. */
  readonly tokens: number[][]
  /** [B·R] */
  readonly finishReasons: FinishReason[]
  /** [B·R] the stop string that ended a sequence, or null. */
  readonly stopStrings: (string | null)[]
  /** Beam search only, [B·R]: sum of log-probabilities / length^lengthPenalty. */
  readonly scores?: number[]
  readonly usage: Usage
  readonly timings: Timings
  readonly seed: number
}

/** What follows a finished row in a batch whose other rows go on. */
function fillerOf({ settings }: GenerationPlan): number {
  const { padTokenId, eosTokenId, numBeams } = settings.config
  // transformers' beam search takes a pad id of 0 for none and fills with the first EOS.
  if (numBeams > 1 && settings.eosTokenIds.length > 0) return padTokenId || settings.eosTokenIds[0]!
  return padTokenId ?? eosTokenId[0] ?? 0
}

/** Rows of one width from what each prompt's request returned. */
export function assembleOutput(plan: GenerationPlan, outcomes: readonly (readonly Outcome[])[], timings: Timings): GenerateOutput {
  const { config, options, seed } = plan.settings
  const perPrompt = outcomes.length / plan.prompts.length
  const rows = outcomes.flatMap((group, request) => group.map((outcome) => ({ outcome, prompt: plan.prompts[Math.floor(request / perPrompt)]! })))
  const filler = fillerOf(plan)
  const leftPad = config.padTokenId ?? config.eosTokenId[0] ?? 0
  const promptWidth = Math.max(...plan.prompts.map((p) => p.row.length))
  const newWidth = options.countPrefillToken === false
    ? Math.max(...plan.requests.map((r) => r.maxNewTokens))
    : Math.max(0, ...rows.map(({ outcome }) => outcome.tokens.length))
  const completionTokens = rows.reduce((sum, { outcome }) => sum + outcome.tokens.length, 0)
  const promptTokens = plan.prompts.reduce((sum, p) => sum + p.tokens.length, 0)
  return {
    sequences: rows.map(({ outcome, prompt }) => [
      ...Array<number>(promptWidth - prompt.row.length).fill(leftPad),
      ...prompt.row,
      ...outcome.tokens,
      ...Array<number>(newWidth - outcome.tokens.length).fill(filler),
    ]),
    tokens: rows.map(({ outcome }) => [...outcome.tokens]),
    finishReasons: rows.map(({ outcome }) => outcome.finishReason),
    stopStrings: rows.map(({ outcome }) => outcome.stopString ?? null),
    ...(config.numBeams > 1 ? { scores: rows.map(({ outcome }) => outcome.score!) } : {}),
    usage: { promptTokens, completionTokens, totalTokens: promptTokens + completionTokens },
    timings,
    seed,
  }
}
