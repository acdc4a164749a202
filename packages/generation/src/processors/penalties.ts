import type { LogitsProcessor } from './types.js'

/** Applies `edit` once to each distinct id of `ids` that is inside the vocabulary. */
function eachDistinct(ids: readonly number[], vocabSize: number, edit: (id: number) => void): void {
  const seen = new Uint8Array(vocabSize)
  for (const id of ids) {
    if (id < 0 || id >= vocabSize || seen[id] === 1) continue
    seen[id] = 1
    edit(id)
  }
}

/** Divides positive and multiplies negative scores, so that a penalty above 1 always makes a token less likely. */
function penalize(scores: Float32Array, ids: readonly number[], penalty: number): void {
  const p = Math.fround(penalty)
  eachDistinct(ids, scores.length, (id) => {
    const s = scores[id]!
    scores[id] = s < 0 ? s * p : s / p
  })
}

/** Each distinct token of the row so far, prompt and pads included: s < 0 ? s·p : s/p. (Keskar et al., CTRL, 2019) */
export function repetitionPenalty(penalty: number): LogitsProcessor {
  return function repetitionPenalty(scores, { ids }) {
    penalize(scores, ids, penalty)
  }
}

/** The inverse penalty on the tokens of the prompt: above 1 it favours them. */
export function encoderRepetitionPenalty(penalty: number): LogitsProcessor {
  return function encoderRepetitionPenalty(scores, { ids, promptLength }) {
    penalize(scores, ids.slice(0, promptLength), 1 / penalty)
  }
}

/** Bans every token that followed the last n-1 ids of `ids` somewhere within the first `searchLength` ids. */
function banRepeats(scores: Float32Array, ids: readonly number[], n: number, searchLength: number): void {
  const prefixStart = ids.length - (n - 1)
  if (prefixStart < 0) return
  for (let end = n - 1; end < searchLength; end++) {
    let same = true
    for (let k = 0; k < n - 1 && same; k++) same = ids[end - (n - 1) + k] === ids[prefixStart + k]
    const next = ids[end]!
    if (same && next >= 0 && next < scores.length) scores[next] = -Infinity
  }
}

/** No n-gram of the row (prompt and pads included) occurs twice. */
export function noRepeatNgram(n: number): LogitsProcessor {
  return function noRepeatNgram(scores, { ids }) {
    banRepeats(scores, ids, n, ids.length)
  }
}

/** No n-gram of the prompt occurs again. */
export function encoderNoRepeatNgram(n: number): LogitsProcessor {
  return function encoderNoRepeatNgram(scores, { ids, promptLength }) {
    banRepeats(scores, ids, n, promptLength)
  }
}

/** Ids of a sequence and what is added to the score of its last id once the ids before it stand at the row's end. */
export type SequenceBias = readonly [ids: readonly number[], bias: number]

function addBiases(scores: Float32Array, ids: readonly number[], biases: readonly SequenceBias[]): void {
  for (const [sequence, bias] of biases) {
    const n = sequence.length
    // A sequence as long as the row or longer could not stand in it whole: left out, as in transformers.
    if (n > 1 && n > ids.length) continue
    let matches = true
    for (let k = 0; k < n - 1 && matches; k++) matches = ids[ids.length - (n - 1) + k] === sequence[k]
    const last = sequence[n - 1]!
    if (matches && last < scores.length) scores[last] = scores[last]! + bias
  }
}

/** Adds a bias to the token that would complete a sequence; sequences of one id always count. */
export function sequenceBias(biases: readonly SequenceBias[]): LogitsProcessor {
  return function sequenceBias(scores, { ids }) {
    addBiases(scores, ids, biases)
  }
}

/** Bans the token that would complete one of `words`; a word that is just an EOS id is left out, as in transformers. */
export function badWords(words: readonly (readonly number[])[], eosTokenIds: readonly number[]): LogitsProcessor {
  const biases = words
    .filter((word) => !(word.length === 1 && eosTokenIds.includes(word[0]!)))
    .map((word): SequenceBias => [word, -Infinity])
  return function badWords(scores, { ids }) {
    addBiases(scores, ids, biases)
  }
}

/**
 * From `start` new tokens on, each EOS score grows by |s|·(factor^k − 1), where k counts the tokens past `start`.
 */
export function exponentialDecayLength(start: number, factor: number, eosTokenIds: readonly number[]): LogitsProcessor {
  return function exponentialDecayLength(scores, { ids, promptLength }) {
    const past = ids.length - promptLength - start
    if (past <= 0) return
    for (const id of new Set(eosTokenIds)) {
      if (id >= 0 && id < scores.length) scores[id] = scores[id]! + Math.abs(scores[id]!) * (factor ** past - 1)
    }
  }
}
