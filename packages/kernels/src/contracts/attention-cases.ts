/** What the contracts of attention and attentionDense share: the definition in float64 with its error bound. */
import type { Expected } from './contract.js'
import { FORMATS, U, host, type HostTensor } from './host.js'

/** Keys a kernel takes at a time; its sums of weights times values are chains of at most this length. */
const CHUNK = 256

export interface AttendOptions {
  readonly d: number
  readonly scale: number
  readonly softcap: number
  /** Value of a stored key or value; the scales enter in float32 with a unit each. */
  readonly kScale: number
  readonly vScale: number
}

/** Where rows of the reference go: values, their bounds, and the elements that no bound can hold. */
export class Attended {
  readonly values: Float64Array
  readonly error: Float64Array
  /** What tensor cores may add: see {@link attendRow}. */
  readonly narrow: Float64Array
  /** 1: a key that the row scores -infinity has NaN there, which a kernel may or may not multiply by 0. */
  readonly open: Uint8Array
  constructor(readonly length: number) {
    this.values = new Float64Array(length)
    this.error = new Float64Array(length)
    this.narrow = new Float64Array(length)
    this.open = new Uint8Array(length)
  }

  /** `nan`: elements that a kernel multiplying whole tiles of V may make NaN. */
  expected(nan: (index: number) => boolean = () => false): Expected {
    const maybeNaN = (i: number): boolean => this.open[i] === 1
    return { values: this.values, error: this.error, maybeNaN, narrow: { error: this.narrow, rms: 0, maybeNaN: (i) => maybeNaN(i) || nan(i) } }
  }
}

/**
 * softmax(cap(q . k * scale)) v over the given keys, into `to` from `at` on; no key gives 0.
 *
 * Bound. A score is a chain of d products times scale: (d + 3) units of sum |q k| scale; tanh has slope at most 1 and adds
 * 8 units. Weights e^(s - m) carry that twice (own and sum's), the rounding of s - m and the exponential's 4 units. Each
 * output is a chain of at most 256 products per chunk, joined with 3 roundings and two exponentials a chunk, all relative
 * to sum w |v|; the last factor adds 3 units.
 *
 * Tensor cores. Weights are rounded to bf16, half a unit of it, or to f16, whose smallest step is 2^-24; queries go to f16
 * beside an FP8 cache, with the same step; scores are scaled to base 2, a few units of theirs; tanh comes from an
 * exponential, 4 units of the cap.
 */
export function attendRow(q: Float64Array, keys: readonly Float64Array[], vals: readonly Float64Array[], o: AttendOptions, to: Attended, at: number): void {
  const { values: out, error } = to
  const n = keys.length
  if (n === 0) return
  const scores = new Float64Array(n)
  let scoreError = 0
  let narrowScore = 0
  let top = -Infinity
  for (let j = 0; j < n; j++) {
    const k = keys[j]!
    let dot = 0
    let magnitude = 0
    let keySize = 0
    for (let i = 0; i < o.d; i++) {
      const product = q[i]! * k[i]!
      dot += product
      magnitude += Math.abs(product)
      keySize += Math.abs(k[i]!)
    }
    const s = dot * o.kScale * o.scale
    scores[j] = o.softcap > 0 ? o.softcap * Math.tanh(s / o.softcap) : s
    let e = (o.d + 3) * U * magnitude * Math.abs(o.kScale * o.scale)
    if (o.softcap > 0) e += 8 * U * Math.abs(scores[j]!)
    if (Number.isFinite(e)) scoreError = Math.max(scoreError, e)
    const n = e + keySize * 2 ** -25 * Math.abs(o.kScale * o.scale) + 4 * U * (Math.abs(scores[j]!) + o.softcap)
    if (Number.isFinite(n)) narrowScore = Math.max(narrowScore, n)
    if (scores[j]! > top) top = scores[j]!
  }
  const shift = top === -Infinity ? 0 : top
  let sum = 0
  for (let j = 0; j < n; j++) sum += Math.exp(scores[j]! - shift)
  if (sum === 0) return // only scores of -infinity: the row sees nothing
  const chunks = Math.ceil(n / CHUNK) + 1
  const base = 2 * scoreError + (Math.min(n, CHUNK) + 12 * chunks + 16) * U
  for (let j = 0; j < n; j++) {
    const weight = Math.exp(scores[j]! - shift) / sum
    const relative = base + (weight > 0 ? 2 * Math.abs(scores[j]! - shift) * U : 0)
    const v = vals[j]!
    // Minus infinity in float32: the key is not seen.
    const hidden = scores[j]! < -FORMATS.f32.max
    for (let i = 0; i < o.d; i++) {
      if (hidden) {
        if (Number.isNaN(v[i]!)) to.open[at + i] = 1
        continue
      }
      const term = weight * v[i]! * o.vScale
      out[at + i]! += term
      error[at + i]! += Math.abs(term) * relative + 2 ** -126
      to.narrow[at + i]! += Math.abs(term) * (2 ** -8 + 2 * narrowScore) + Math.abs(v[i]! * o.vScale) * 2 ** -25
    }
  }
  for (let i = at; i < at + o.d; i++) {
    if (!Number.isFinite(error[i]!)) error[i] = 0
    if (!Number.isFinite(to.narrow[i]!)) to.narrow[i] = 0
  }
}

/** Names a list of (query length, key length) pairs. */
export const LENGTHS: Readonly<Record<string, readonly (readonly [q: number, kv: number])[]>> = {
  first: [[1, 1]],
  decode: [[1, 17], [1, 256], [1, 257], [1, 40]],
  long: [[1, 1030]],
  prefill: [[5, 5], [33, 33]],
  big: [[270, 270]],
  chunked: [[7, 263], [20, 290]],
  empty: [[0, 3], [2, 2], [0, 0]],
  behind: [[4, 2], [3, 3]],
  idle: [[1, 5], [0, 0], [1, 300], [0, 7], [1, 530]],
  many: [[1, 3], [2, 9], [1, 1], [3, 30], [1, 64], [2, 66], [1, 300]],
}

/** [query heads, key heads]: MHA, GQA, MQA, and a group that does not fit one tile of rows. */
export const HEADS: Readonly<Record<string, readonly [number, number]>> = { '1/1': [1, 1], '3/3': [3, 3], '6/2': [6, 2], '8/1': [8, 1], '50/1': [50, 1] }
export const DIMS = [2, 6, 16, 30, 32, 34, 64, 80, 96, 128, 256] as const

/** Multiplications a reference may cost: in the whole table, and in its reduced form. */
export const MOST_WORK = { full: 3e7, quick: 2e6 }

/** Multiplications of the reference: every pair of query and key, masked or not, in every head. */
export function workOf(lengths: (typeof LENGTHS)[string], heads: number, d: number): number {
  return lengths.reduce((sum, [q, kv]) => sum + q * kv, 0) * heads * d
}

/** Infinite values times weights that underflow are NaN in float32 and infinite in float64: V has none. */
export function withoutInfinity(v: HostTensor): HostTensor {
  return host(v.dtype, v.shape, (i) => (Math.abs(v.values[i]!) === Infinity ? 1 : v.values[i]!))
}
