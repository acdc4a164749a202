/**
 * Choosing a token from scores: pure functions on Float32Array, no device and no state.
 * Scores are logits or log-probabilities of one row, shape [V]; `-Infinity` bans a token.
 */
import { OctetError, philoxUniform } from '@octet-llm/core'

/** Largest score, or -Infinity when there is none. NaN is never the largest. */
export function maxScore(scores: Float32Array): number {
  let max = -Infinity
  for (let i = 0; i < scores.length; i++) if (scores[i]! > max) max = scores[i]!
  return max
}

/** float64 weights of the row at hand, kept between calls: every function here is done with them when it returns. */
let scratch = new Float64Array(0)

/** exp(s - max) of each score into the scratch, and their sum; NaN scores weigh nothing where `skipNaN` is set. */
function weigh(scores: Float32Array, max: number, skipNaN: boolean): { weights: Float64Array; total: number } {
  if (scratch.length < scores.length) scratch = new Float64Array(scores.length)
  const weights = scratch
  let total = 0
  for (let i = 0; i < scores.length; i++) {
    const s = scores[i]!
    // A banned token needs no exp; after top-k that is most of the row.
    const weight = s === -Infinity && max > -Infinity ? 0 : Math.exp(s - max)
    weights[i] = skipNaN && Number.isNaN(weight) ? 0 : weight
    total += weights[i]!
  }
  return { weights, total }
}

/** Index of the largest score of [V]; ties go to the lowest index; NaN never wins unless all are NaN (then 0). */
export function argmax(scores: Float32Array): number {
  let best = 0
  let max = -Infinity
  for (let i = 0; i < scores.length; i++) {
    if (scores[i]! > max) {
      max = scores[i]!
      best = i
    }
  }
  if (max > -Infinity) return best
  const first = scores.findIndex((s) => !Number.isNaN(s))
  return Math.max(first, 0)
}

/** Softmax of [V] in float64, each probability rounded once to float32. All-banned scores give NaN, as in torch. */
export function softmax(scores: Float32Array, out: Float32Array = new Float32Array(scores.length)): Float32Array {
  const { weights, total } = weigh(scores, maxScore(scores), false)
  for (let i = 0; i < scores.length; i++) out[i] = weights[i]! / total
  return out
}

/** log(softmax) of [V] in float64, each value rounded once to float32; `out` may be `scores` itself. */
export function logSoftmax(scores: Float32Array, out: Float32Array = new Float32Array(scores.length)): Float32Array {
  const max = maxScore(scores)
  const shift = max + Math.log(weigh(scores, max, false).total)
  for (let i = 0; i < scores.length; i++) out[i] = scores[i]! - shift
  return out
}

function refuseBanned(op: string): never {
  throw new OctetError('INVALID_ARGUMENT', {
    op,
    argument: 'scores',
    expected: 'at least one finite score',
    received: 'only -Infinity or NaN',
    hint: 'loosen the processors that ban tokens, or check the logits of the model',
  })
}

/**
 * Inverse-CDF draw: the lowest index whose cumulative softmax exceeds `uniform`, summed in index order in float64.
 *
 * @param scores [V]
 * @param uniform in [0, 1)
 * @throws OctetError `INVALID_ARGUMENT` when no score is finite.
 */
export function sampleInverseCdf(scores: Float32Array, uniform: number): number {
  const max = maxScore(scores)
  if (!Number.isFinite(max)) refuseBanned('sample')
  const { weights, total } = weigh(scores, max, true)
  const target = uniform * total
  let cumulative = 0
  let last = 0
  for (let i = 0; i < scores.length; i++) {
    if (weights[i] === 0) continue
    cumulative += weights[i]!
    last = i
    if (cumulative > target) return i
  }
  return last
}

/** What names a draw: never a batch slot, so a row's tokens do not depend on its batch-mates. */
export interface DrawKey {
  /** Seed of the run, a whole number below 2^53. */
  readonly seed: number
  /** Number of the sequence within the run. */
  readonly sequence: number
  /** Tokens that stand before the drawn one, pads left out. */
  readonly position: number
}

/** One token from the softmax of `scores` [V], by {@link philoxUniform} of the key. */
export function sampleToken(scores: Float32Array, key: DrawKey): number {
  return sampleInverseCdf(scores, philoxUniform(key.seed, key.sequence, key.position))
}

/**
 * `count` different indices from the softmax of `scores` [N], in drawing order: each draw is an inverse-CDF draw
 * over what is left. Once only zero probabilities are left, the highest remaining scores follow.
 *
 * @param scores [N], untouched
 * @param uniform draw number (0, 1, …) → uniform number in [0, 1)
 */
export function sampleWithoutReplacement(scores: Float32Array, count: number, uniform: (draw: number) => number): number[] {
  const left = Float32Array.from(scores)
  const drawn: number[] = []
  const taken = new Set<number>()
  for (let draw = 0; draw < Math.min(count, scores.length); draw++) {
    let index: number
    if (Number.isFinite(maxScore(left))) {
      index = sampleInverseCdf(left, uniform(draw))
    } else {
      index = scores.findIndex((_, i) => !taken.has(i))
    }
    drawn.push(index)
    taken.add(index)
    left[index] = -Infinity
  }
  return drawn
}

/** Indices of the `count` largest of [N], largest first, ties to the lowest index; NaN is left out. */
export function topIndices(scores: Float32Array, count: number): number[] {
  if (count <= 0) return []
  // A min-heap of the best so far: a scan of N with few insertions, since count is small beside V.
  const heap: number[] = []
  const worse = (a: number, b: number): boolean => {
    const x = scores[a]!
    const y = scores[b]!
    return x < y || (x === y && a > b)
  }
  let least = -Infinity
  for (let i = 0; i < scores.length; i++) {
    const s = scores[i]!
    if (heap.length < count) {
      if (Number.isNaN(s)) continue
      heap.push(i)
      siftUp(heap, worse)
    } else if (s > least) {
      // An equal score with a higher index is never better, so `>` decides.
      heap[0] = i
      siftDown(heap, worse)
    } else {
      continue
    }
    least = heap.length < count ? -Infinity : scores[heap[0]!]!
  }
  return heap.sort((a, b) => (worse(b, a) ? -1 : 1))
}

function siftUp(heap: number[], worse: (a: number, b: number) => boolean): void {
  let i = heap.length - 1
  while (i > 0) {
    const parent = (i - 1) >> 1
    if (!worse(heap[i]!, heap[parent]!)) return
    ;[heap[i], heap[parent]] = [heap[parent]!, heap[i]!]
    i = parent
  }
}

function siftDown(heap: number[], worse: (a: number, b: number) => boolean): void {
  let i = 0
  for (;;) {
    let least = i
    for (const child of [2 * i + 1, 2 * i + 2]) {
      if (child < heap.length && worse(heap[child]!, heap[least]!)) least = child
    }
    if (least === i) return
    ;[heap[i], heap[least]] = [heap[least]!, heap[i]!]
    i = least
  }
}
