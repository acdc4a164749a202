/** Numbers on the host: seeded inputs, exact rounding to every dtype, encoding and decoding. */
import { E4M3_TO_F32, E5M2_TO_F32, bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, numel, type DType } from '@octet-llm/core'
import type { TensorDType } from '../dtype-codes.js'
import { encodeNumbers } from '../tensor-data.js'

export interface HostTensor {
  readonly dtype: TensorDType
  readonly shape: readonly number[]
  /** Row-major; each is exactly a value of the dtype. */
  readonly values: Float64Array
  /** Raw bytes, where codes matter that no number names (NaN with a sign or payload). */
  readonly bytes?: Uint8Array
}

/** Unit roundoff of a binary format and the largest finite value; `tiny` is half the smallest subnormal. */
export const FORMATS = {
  f64: { unit: 2 ** -53, max: Number.MAX_VALUE, tiny: 0 },
  f32: { unit: 2 ** -24, max: 3.4028234663852886e38, tiny: 2 ** -150 },
  f16: { unit: 2 ** -11, max: 65504, tiny: 2 ** -25 },
  bf16: { unit: 2 ** -8, max: 3.3895313892515355e38, tiny: 2 ** -134 },
  e4m3: { unit: 2 ** -4, max: 448, tiny: 2 ** -10 },
  e5m2: { unit: 2 ** -3, max: 57344, tiny: 2 ** -17 },
} as const satisfies Partial<Record<DType, { unit: number; max: number; tiny: number }>>

/** Unit roundoff of float32, in which every kernel computes. */
export const U = FORMATS.f32.unit

export type FloatFormat = keyof typeof FORMATS
export function isFormat(dtype: TensorDType): dtype is FloatFormat & TensorDType {
  return Object.hasOwn(FORMATS, dtype)
}

/** float32 value rounded to a dtype and widened again, as a kernel's store does. Integers pass through. */
export function roundTo(dtype: TensorDType, value: number): number {
  switch (dtype) {
    case 'f32':
      return Math.fround(value)
    case 'bf16':
      return bf16ToF32(f32ToBf16(value))
    case 'f16':
      return f16ToF32(f32ToF16(value))
    case 'e4m3':
      return roundFp8(Math.fround(value), 3, 7, 448)
    case 'e5m2':
      return roundFp8(Math.fround(value), 2, 15, 57344)
    default:
      return value
  }
}

const single = new Float32Array(1)
const word = new Uint32Array(single.buffer)

/** Nearest even multiple of the quantum at v, saturating. Core's conversions, by arithmetic that is fast in bulk. */
function roundFp8(v: number, mantissa: number, bias: number, max: number): number {
  if (!(Math.abs(v) < max)) return Number.isNaN(v) ? v : Math.sign(v) * max
  single[0] = v
  const exponent = Math.max(((word[0]! >>> 23) & 0xff) - 127, 1 - bias)
  const quantum = 2 ** (exponent - mantissa)
  const scaled = v / quantum
  let whole = Math.round(scaled)
  if (whole - scaled === 0.5 && whole % 2 !== 0) whole -= 1
  return whole === 0 ? (v < 0 || Object.is(v, -0) ? -0 : 0) : whole * quantum
}

/** The code of a number that is a value of the format. */
function fp8Code(v: number, mantissa: number, bias: number): number {
  if (Number.isNaN(v)) return 0x7f
  single[0] = v
  const sign = (word[0]! >>> 24) & 0x80
  const exponent = ((word[0]! >>> 23) & 0xff) - 127
  if (v === 0) return sign
  if (Math.abs(v) === Infinity) return sign | (31 << mantissa)
  if (exponent < 1 - bias) return sign | (Math.abs(v) * 2 ** (bias - 1 + mantissa))
  return sign | ((exponent + bias) << mantissa) | ((word[0]! >>> (23 - mantissa)) & (2 ** mantissa - 1))
}

/** A host tensor of the given numbers, rounded to the dtype. */
export function host(dtype: TensorDType, shape: readonly number[], data: ArrayLike<number> | ((index: number) => number)): HostTensor {
  const values = new Float64Array(numel(shape))
  for (let i = 0; i < values.length; i++) values[i] = roundTo(dtype, typeof data === 'function' ? data(i) : data[i]!)
  return { dtype, shape, values }
}

const encoded = new WeakMap<HostTensor, Uint8Array>()

/** The bytes of a tensor, made once: every device of a run gets the same. Change values before that only. */
export function encode(tensor: HostTensor): Uint8Array {
  let bytes = tensor.bytes ?? encoded.get(tensor)
  if (bytes === undefined) {
    if (tensor.dtype === 'e4m3') bytes = Uint8Array.from(tensor.values, (v) => fp8Code(v, 3, 7))
    else if (tensor.dtype === 'e5m2') bytes = Uint8Array.from(tensor.values, (v) => fp8Code(v, 2, 15))
    else bytes = encodeNumbers(tensor.values, tensor.dtype, 'contract')
    encoded.set(tensor, bytes)
  }
  return bytes
}

/** A host tensor of raw codes. */
export function fromCodes(dtype: TensorDType, shape: readonly number[], bytes: Uint8Array): HostTensor {
  return { dtype, shape, values: decode(bytes, dtype), bytes }
}

export function decode(bytes: Uint8Array, dtype: TensorDType): Float64Array {
  const copy = bytes.slice()
  switch (dtype) {
    case 'f32':
      return Float64Array.from(new Float32Array(copy.buffer))
    case 'f64':
      return new Float64Array(copy.buffer)
    case 'bf16':
      return Float64Array.from(new Uint16Array(copy.buffer), bf16ToF32)
    case 'f16':
      return Float64Array.from(new Uint16Array(copy.buffer), f16ToF32)
    case 'e4m3':
      return Float64Array.from(copy, (code) => E4M3_TO_F32[code]!)
    case 'e5m2':
      return Float64Array.from(copy, (code) => E5M2_TO_F32[code]!)
    case 'i32':
      return Float64Array.from(new Int32Array(copy.buffer))
    case 'i64':
      return Float64Array.from(new BigInt64Array(copy.buffer), Number)
    default:
      return Float64Array.from(copy)
  }
}

/** A seeded stream of numbers (xorshift128, Marsaglia 2003): the same on every machine. */
export class Random {
  #a = 0
  #b = 0
  #c = 0
  #d = 0

  constructor(seed: string) {
    let hash = 2166136261
    const word = (round: number): number => {
      for (const char of seed) hash = Math.imul(hash ^ char.charCodeAt(0), 16777619)
      hash = Math.imul(hash ^ round, 16777619)
      return hash | 1
    }
    ;[this.#a, this.#b, this.#c, this.#d] = [word(1), word(2), word(3), word(4)]
    for (let i = 0; i < 16; i++) this.#next()
  }

  #next(): number {
    let t = this.#d
    t ^= t << 11
    t ^= t >>> 8
    this.#d = this.#c
    this.#c = this.#b
    this.#b = this.#a
    this.#a = t ^ this.#b ^ (this.#b >>> 19)
    return this.#a >>> 0
  }

  /** In [0, 1). */
  uniform(): number {
    return this.#next() / 4294967296
  }
  /** Whole number in [0, n). */
  below(n: number): number {
    return Math.floor(this.uniform() * n)
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!
  }
  /** Standard normal, by the quick sum of uniforms: the table needs spread and both signs, not tails. */
  normal(): number {
    return (this.uniform() + this.uniform() + this.uniform() - 1.5) * 2
  }
  /** The numbers 0 … n-1 in random order. */
  permutation(n: number): number[] {
    const order = Array.from({ length: n }, (_, i) => i)
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1)
      ;[order[i], order[j]] = [order[j]!, order[i]!]
    }
    return order
  }
}

/**
 * What inputs look like. `normal`: standard normal; `shifted`: the same around 300. `wide`: magnitudes from 1e-6 to 1e6. `tiny`: around the smallest
 * normal float32, subnormals included. `zero`: both zeros. `extreme`: normal, sprinkled with zeros, infinities, NaN,
 * subnormals and the largest values; `special`: the same without finite values whose sums or squares overflow.
 */
export type Values = 'normal' | 'shifted' | 'wide' | 'tiny' | 'zero' | 'extreme' | 'special'
export const VALUES: readonly Values[] = ['normal', 'wide', 'tiny', 'zero', 'extreme']
/** For ops that sum: which of their partial sums overflow would depend on the order. */
export const SUM_VALUES: readonly Values[] = ['normal', 'wide', 'tiny', 'zero', 'special']

const EXTREMES = [0, -0, Infinity, -Infinity, NaN, 1e-40, -1e-42, 1.1754943508222875e-38, 3.4028234663852886e38, -3e38, 448, 57344, 500, -1e6]
const SPECIALS = [0, -0, Infinity, -Infinity, NaN, 1e-40, -1e-42, 1.1754943508222875e-38, 448, -1e6]

export function draw(random: Random, kind: Values): number {
  switch (kind) {
    case 'normal':
      return random.normal()
    case 'shifted':
      return random.normal() + 300
    case 'wide':
      return (random.uniform() < 0.5 ? -1 : 1) * 10 ** (12 * random.uniform() - 6)
    case 'tiny':
      return random.normal() * 1e-38
    case 'zero':
      return random.uniform() < 0.5 ? 0 : -0
    case 'extreme':
      return random.uniform() < 0.15 ? random.pick(EXTREMES) : random.normal()
    case 'special':
      return random.uniform() < 0.05 ? random.pick(SPECIALS) : random.normal()
  }
}

export function values(random: Random, dtype: TensorDType, shape: readonly number[], kind: Values = 'normal', scale = 1): HostTensor {
  const tensor = host(dtype, shape, () => draw(random, kind) * scale)
  // Every extreme is there at least once where there is room.
  const must = kind === 'extreme' ? EXTREMES : []
  if (tensor.values.length >= 2 * must.length) for (const v of must) tensor.values[random.below(tensor.values.length)] = roundTo(dtype, v)
  return tensor
}

/** The 2-norm bound of an {@link Expected}, for inputs of one size: elsewhere a few elements make up a row's norm. */
export function rms(kind: Values, units: number): { rms?: number } {
  return kind === 'normal' ? { rms: units } : {}
}

export function ints(data: readonly number[], shape: readonly number[] = [data.length]): HostTensor {
  return host('i32', shape, data)
}

// ---- the table's axes ----

/** Dtypes of activations and small parameters. */
export const ACTIVATIONS = ['f32', 'bf16'] as const

/** Around every vector length that a level has: one lane to 64, and a few vectors with a tail. */
export const WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 257] as const

type AxisValues = Record<string, readonly unknown[]>
interface Combination<T extends AxisValues> {
  /** `axis=value`, joined by blanks. */
  readonly name: string
  readonly at: { readonly [K in keyof T]: T[K][number] }
}

function combinations(axes: AxisValues): number {
  return Object.values(axes).reduce((n, options) => n * options.length, 1)
}

function combination<T extends AxisValues>(axes: T, index: number): Combination<T> {
  const keys = Object.keys(axes)
  const at: Record<string, unknown> = {}
  let rest = index
  for (const key of keys.toReversed()) {
    const options = axes[key]!
    at[key] = options[rest % options.length]
    rest = Math.floor(rest / options.length)
  }
  return { name: keys.map((key) => `${key}=${String(at[key])}`).join(' '), at: at as Combination<T>['at'] }
}

/** All combinations of the named axes, in order. */
export function* product<T extends AxisValues>(axes: T): Generator<Combination<T>> {
  const count = combinations(axes)
  for (let i = 0; i < count; i++) yield combination(axes, i)
}

/**
 * `count` different combinations, spread over the whole product: the index advances by a golden-ratio step without a
 * common factor with any axis, so every axis and every pair of axes keeps its values in proportion.
 */
export function* spread<T extends AxisValues>(axes: T, count: number): Generator<Combination<T>> {
  const total = combinations(axes)
  let step = Math.max(1, Math.round(total * 0.6180339887498949))
  while (commonDivisor(step, total) > 1) step++
  for (let i = 0; i < Math.min(count, total); i++) yield combination(axes, (i * step) % total)
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b)
}

/**
 * Whether the i-th of a list belongs to the reduced table: about one in `step`, by a hash of the index, so that every
 * axis keeps all of its values whatever their periods.
 */
export function sampled(index: number, step: number): boolean {
  let h = Math.imul(index + 1, 2654435761) >>> 0
  h = Math.imul(h ^ (h >>> 15), 2246822519) >>> 0
  return (h >>> 7) % step === 0
}
