import { OctetError } from '@octet-llm/core'

/** How rotary frequencies stretch past the length a model was trained on; field meanings as in Hugging Face's configs. */
export type RopeScaling =
  | { readonly type: 'default' }
  | { readonly type: 'linear'; readonly factor: number }
  | { readonly type: 'dynamic'; readonly factor: number }
  | YarnScaling
  | Llama3Scaling
  | LongRopeScaling

export interface YarnScaling {
  readonly type: 'yarn'
  readonly factor: number
  readonly originalMaxPositionEmbeddings: number
  /** Default 32. */
  readonly betaFast?: number
  /** Default 1. */
  readonly betaSlow?: number
  /** Multiplies cos and sin; default from `factor`, `mscale` and `mscaleAllDim`. */
  readonly attentionFactor?: number
  readonly mscale?: number
  readonly mscaleAllDim?: number
  /** Rounds the correction range to whole dimensions. Default true. */
  readonly truncate?: boolean
}

export interface Llama3Scaling {
  readonly type: 'llama3'
  readonly factor: number
  readonly lowFreqFactor: number
  readonly highFreqFactor: number
  readonly originalMaxPositionEmbeddings: number
}

/** Frequencies divided one by one, by other numbers once a sequence is longer than the original length. */
export interface LongRopeScaling {
  readonly type: 'longrope'
  /** dim / 2 positive numbers. */
  readonly shortFactor: readonly number[]
  /** dim / 2 positive numbers. */
  readonly longFactor: readonly number[]
  readonly originalMaxPositionEmbeddings: number
  /** Multiplies cos and sin. */
  readonly attentionFactor: number
}

export interface RopeFrequencies {
  /** float32 [dim / 2]: angle of pair i at position p is `p * invFreq[i]`. */
  readonly invFreq: Float32Array
  /** Multiplies cos and sin (yarn, longrope); 1 otherwise. */
  readonly attentionScaling: number
}

const f = Math.fround

/**
 * Rotary frequencies with every step rounded to float32, in Hugging Face's order of operations
 * (transformers `modeling_rope_utils.py`), so that tables agree with theirs to the last bits.
 * @param dim rotated width of a head, even
 * @param base theta
 * @param maxPositionEmbeddings trained length, which `dynamic` compares against
 * @param sequenceLength length of the sequence; only `dynamic` and `longrope` depend on it
 * @throws OctetError `INVALID_ARGUMENT` for an odd dim, a factor that is not positive, or another number of factors than dim / 2
 */
export function ropeFrequencies(
  dim: number,
  base: number,
  scaling: RopeScaling = { type: 'default' },
  maxPositionEmbeddings = Infinity,
  sequenceLength = 0,
): RopeFrequencies {
  check('dim', Number.isInteger(dim) && dim > 0 && dim % 2 === 0, 'an even number of at least 2', dim)
  check('base', base > 0 && Number.isFinite(base), 'a positive number', base)
  switch (scaling.type) {
    case 'default':
      return { invFreq: inverse(positionFrequencies(dim, base)), attentionScaling: 1 }
    case 'linear':
      checkFactor(scaling.factor)
      return { invFreq: inverse(positionFrequencies(dim, base)).map((x) => f(x / f(scaling.factor))), attentionScaling: 1 }
    case 'dynamic': {
      checkFactor(scaling.factor)
      return { invFreq: inverse(positionFrequencies(dim, dynamicBase(dim, base, scaling.factor, maxPositionEmbeddings, sequenceLength))), attentionScaling: 1 }
    }
    case 'yarn':
      return yarn(dim, base, scaling)
    case 'llama3':
      return { invFreq: llama3(inverse(positionFrequencies(dim, base)), scaling), attentionScaling: 1 }
    case 'longrope':
      return longrope(dim, base, scaling, sequenceLength)
  }
}

/**
 * The longest sequence whose frequencies are those of the shortest one: past it they follow the sequence's own length.
 * @param maxPositionEmbeddings trained length
 */
export function fixedRopeLength(scaling: RopeScaling, maxPositionEmbeddings: number): number {
  if (scaling.type === 'dynamic') return maxPositionEmbeddings
  return scaling.type === 'longrope' ? scaling.originalMaxPositionEmbeddings : Infinity
}

/** The longest sequence that frequencies are made for: `dynamic` stretches the trained length by its factor. */
export function ropeReach(scaling: RopeScaling, maxPositionEmbeddings: number): number {
  return scaling.type === 'dynamic' ? Math.max(maxPositionEmbeddings, Math.floor(maxPositionEmbeddings * scaling.factor)) : maxPositionEmbeddings
}

/** theta' = theta * (factor * L / maxPos - (factor - 1)) ^ (dim / (dim - 2)), L = max(sequence length, maxPos). */
function dynamicBase(dim: number, base: number, factor: number, maxPositions: number, sequenceLength: number): number {
  if (sequenceLength <= maxPositions) return base
  return base * ((factor * sequenceLength) / maxPositions - (factor - 1)) ** (dim / (dim - 2))
}

/** base ^ (2i / dim), float32 exponents and results. */
function positionFrequencies(dim: number, base: number): Float32Array {
  return Float32Array.from({ length: dim / 2 }, (_, i) => f(base) ** f((2 * i) / dim))
}

function inverse(values: Float32Array): Float32Array {
  return values.map((x) => f(1 / x))
}

function yarn(dim: number, base: number, s: YarnScaling): RopeFrequencies {
  checkFactor(s.factor)
  const frequencies = positionFrequencies(dim, base)
  const [low, high] = correctionRange(dim, base, s)
  const span = f((low === high ? high + 0.001 : high) - low)
  const invFreq = frequencies.map((frequency, i) => {
    const ramp = Math.min(1, Math.max(0, f(f(i - f(low)) / span)))
    const extrapolated = f(1 - ramp)
    return f(f(f(1 / f(f(s.factor) * frequency)) * f(1 - extrapolated)) + f(f(1 / frequency) * extrapolated))
  })
  return { invFreq, attentionScaling: f(yarnAttentionFactor(s)) }
}

/** Dimensions between which yarn blends: those that turn betaFast and betaSlow times over the trained length. */
function correctionRange(dim: number, base: number, s: YarnScaling): [number, number] {
  const turns = (rotations: number) =>
    (dim * Math.log(s.originalMaxPositionEmbeddings / (rotations * 2 * Math.PI))) / (2 * Math.log(base))
  const low = turns(s.betaFast ?? 32)
  const high = turns(s.betaSlow ?? 1)
  const [from, to] = s.truncate === false ? [low, high] : [Math.floor(low), Math.ceil(high)]
  return [Math.max(from, 0), Math.min(to, dim - 1)]
}

function yarnAttentionFactor(s: YarnScaling): number {
  if (s.attentionFactor !== undefined) return s.attentionFactor
  const mscale = (m: number) => (s.factor <= 1 ? 1 : 0.1 * m * Math.log(s.factor) + 1)
  return s.mscale && s.mscaleAllDim ? mscale(s.mscale) / mscale(s.mscaleAllDim) : mscale(1)
}

function llama3(invFreq: Float32Array, s: Llama3Scaling): Float32Array {
  checkFactor(s.factor)
  check('highFreqFactor', s.highFreqFactor > s.lowFreqFactor, `more than lowFreqFactor (${s.lowFreqFactor})`, s.highFreqFactor)
  const original = s.originalMaxPositionEmbeddings
  return invFreq.map((inv) => {
    const wavelength = f(f(2 * Math.PI) / inv)
    if (wavelength < f(original / s.highFreqFactor)) return inv
    if (wavelength > f(original / s.lowFreqFactor)) return f(inv / f(s.factor))
    const smooth = f(f(f(f(original) / wavelength) - f(s.lowFreqFactor)) / f(s.highFreqFactor - s.lowFreqFactor))
    return f(f(f(f(1 - smooth) * inv) / f(s.factor)) + f(smooth * inv))
  })
}

function longrope(dim: number, base: number, s: LongRopeScaling, sequenceLength: number): RopeFrequencies {
  checkFactor(s.attentionFactor)
  for (const [name, factors] of Object.entries({ shortFactor: s.shortFactor, longFactor: s.longFactor })) {
    check(name, factors.length === dim / 2, `${dim / 2} numbers`, factors.length)
    for (const factor of factors) check(name, factor > 0 && Number.isFinite(factor), 'positive numbers', factor)
  }
  const factors = sequenceLength > s.originalMaxPositionEmbeddings ? s.longFactor : s.shortFactor
  return { invFreq: inverse(positionFrequencies(dim, base).map((x, i) => f(f(factors[i]!) * x))), attentionScaling: f(s.attentionFactor) }
}

/** Rows [begin, begin + positions.length) of the float32 tables, cos and sin of `position * invFreq`, [n, dim / 2]. */
export function ropeTables(frequencies: RopeFrequencies, positions: ArrayLike<number>): { cos: Float32Array; sin: Float32Array } {
  const { invFreq, attentionScaling } = frequencies
  const half = invFreq.length
  const cos = new Float32Array(positions.length * half)
  const sin = new Float32Array(positions.length * half)
  for (let p = 0; p < positions.length; p++) {
    for (let i = 0; i < half; i++) {
      const angle = f(positions[p]! * invFreq[i]!)
      cos[p * half + i] = f(Math.cos(angle)) * attentionScaling
      sin[p * half + i] = f(Math.sin(angle)) * attentionScaling
    }
  }
  return { cos, sin }
}

function checkFactor(factor: number): void {
  check('factor', factor > 0 && Number.isFinite(factor), 'a positive number', factor)
}

function check(argument: string, ok: boolean, expected: string, received: number): void {
  if (!ok) throw new OctetError('INVALID_ARGUMENT', { op: 'ropeFrequencies', argument, expected, received: String(received) })
}
