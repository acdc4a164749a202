import { OctetError } from '@octet-llm/core'
import { logSoftmax } from '../sampling/index.js'
import type { LogitsProcessor, PrefixAllowedTokens } from './types.js'

const FLOAT32_MAX = 3.4028234663852886e38

function ban(scores: Float32Array, tokens: readonly number[]): void {
  for (const id of tokens) if (id >= 0 && id < scores.length) scores[id] = -Infinity
}

function force(scores: Float32Array, tokens: readonly number[]): void {
  scores.fill(-Infinity)
  for (const id of tokens) if (id >= 0 && id < scores.length) scores[id] = 0
}

/** No EOS while the row, prompt and pads included, is shorter than `length`. */
export function minLength(length: number, eosTokenIds: readonly number[]): LogitsProcessor {
  return function minLength(scores, { ids }) {
    if (ids.length < length) ban(scores, eosTokenIds)
  }
}

/** No EOS among the first `count` new tokens. */
export function minNewTokens(count: number, eosTokenIds: readonly number[]): LogitsProcessor {
  return function minNewTokens(scores, { ids, promptLength }) {
    if (ids.length - promptLength < count) ban(scores, eosTokenIds)
  }
}

/** Only the ids that the user's function allows after the row so far. */
export function prefixAllowedTokens(allowed: PrefixAllowedTokens): LogitsProcessor {
  return function prefixAllowedTokens(scores, { ids, sequence }) {
    const keep = allowed(sequence, ids)
    if (keep.length === 0) {
      throw new OctetError('INVALID_ARGUMENT', {
        op: 'generate',
        argument: 'prefixAllowedTokens',
        expected: 'at least one allowed token',
        received: `none for sequence ${sequence} after ${ids.length} ids`,
        hint: 'return the EOS id where a sequence should end',
      })
    }
    const keepSet = new Set(keep)
    for (let i = 0; i < scores.length; i++) if (!keepSet.has(i)) scores[i] = -Infinity
  }
}

/** Forces `id` after a row of a single id (encoder-decoder checkpoints use it; kept for equal configs). */
export function forcedBos(id: number): LogitsProcessor {
  return function forcedBos(scores, { ids }) {
    if (ids.length === 1) force(scores, [id])
  }
}

/** Forces one of `eos` as the last token that `maxLength` (prompt and new tokens) allows. */
export function forcedEos(maxLength: number, eos: readonly number[]): LogitsProcessor {
  return function forcedEos(scores, { ids }) {
    if (ids.length === maxLength - 1) force(scores, eos)
  }
}

/** NaN becomes 0, infinities the largest float32 of their sign. */
export function removeInvalidValues(): LogitsProcessor {
  return function removeInvalidValues(scores) {
    for (let i = 0; i < scores.length; i++) {
      const s = scores[i]!
      if (Number.isNaN(s)) scores[i] = 0
      else if (s === Infinity) scores[i] = FLOAT32_MAX
      else if (s === -Infinity) scores[i] = -FLOAT32_MAX
    }
  }
}

/** Never these tokens. */
export function suppressTokens(tokens: readonly number[]): LogitsProcessor {
  return function suppressTokens(scores) {
    ban(scores, tokens)
  }
}

/** Never these tokens as the first new one; as the second, where a forced BOS takes the first place. */
export function beginSuppressTokens(tokens: readonly number[], forcedBosTokenId: number | null = null): LogitsProcessor {
  return function beginSuppressTokens(scores, { ids, promptLength }) {
    const begin = promptLength > 1 || forcedBosTokenId === null ? promptLength : promptLength + 1
    if (ids.length === begin) ban(scores, tokens)
  }
}

/** log-softmax of what the other processors left. Always last. */
export function renormalize(): LogitsProcessor {
  return function renormalize(scores) {
    logSoftmax(scores, scores)
  }
}
