/**
 * How a scale is made from an amax, exact to the bit in float32. A scale *multiplies* before the cast to FP8; `scaleInv`
 * de-quantizes. Source: TransformerEngine, `common/recipe/recipe_common.cuh` and `common/util/ptx.cuh`.
 */
import type { Fp8DType, ScaleGranularity } from '@octet-llm/core'
import { reject } from './fields.js'
import { FP8_MAX } from './format.js'

/** The largest finite float32. */
export const FLOAT32_MAX = 3.4028234663852886e38

export interface ScaleOptions {
  /** Lower bound of amax. Default 0. */
  readonly epsilon?: number
  /** Clear the mantissa: round down to a power of two. Default false. */
  readonly power2?: boolean
  /** What an infinite scale becomes; TransformerEngine takes the largest value of the input's dtype. Default {@link FLOAT32_MAX}. */
  readonly valueForInfinity?: number
}

/**
 * The scale of current and block scaling, a float32: `fp8Max / max(amax, epsilon)`, rounded to nearest; 1 where amax is
 * 0, infinite or NaN (unlike delayed scaling, which keeps the previous scale).
 *
 * A float32 division done in float64 and rounded once more is exact: 53 ≥ 2·24 + 2 bits.
 */
export function scaleFromAmax(amax: number, fp8Max: number, options: ScaleOptions = {}): number {
  let bound = Math.fround(amax)
  const epsilon = Math.fround(options.epsilon ?? 0)
  // A NaN compares false and stays.
  if (bound < epsilon) bound = epsilon
  if (bound === 0 || !Number.isFinite(bound)) return 1
  let scale = Math.fround(fp8Max / bound)
  if (!Number.isFinite(scale)) scale = Math.fround(options.valueForInfinity ?? FLOAT32_MAX)
  return options.power2 === true ? clearMantissa(scale) : scale
}

/** 1 / scale in float32. */
export function inverseScale(scale: number): number {
  return Math.fround(1 / Math.fround(scale))
}

const f32 = new Float32Array(1)
const u32 = new Uint32Array(f32.buffer)

function bitsOf(value: number): number {
  f32[0] = value
  return u32[0] as number
}

function fromBits(bits: number): number {
  u32[0] = bits
  return f32[0] as number
}

function clearMantissa(value: number): number {
  return fromBits(bitsOf(value) & 0xff800000)
}

/** max |x|: 0 for no values, NaN if any value is NaN. */
export function amaxOf(values: Float32Array): number {
  let amax = 0
  for (const value of values) {
    const magnitude = Math.abs(value)
    if (Number.isNaN(magnitude)) return NaN
    if (magnitude > amax) amax = magnitude
  }
  return amax
}

/** Scales of a matrix, row-major over its blocks. */
export interface BlockScales {
  /** What multiplies before the cast. */
  readonly scale: Float32Array
  /** What de-quantizes. */
  readonly scaleInv: Float32Array
  /** Shape of both: blocks down × blocks across. */
  readonly shape: readonly [number, number]
}

/** Height and width of the blocks that share a scale; the matrix's own where 0. */
const BLOCKS: Readonly<Record<ScaleGranularity, readonly [number, number]>> = {
  tensor: [0, 0],
  row: [1, 0],
  block1x128: [1, 128],
  block128x128: [128, 128],
}

/**
 * The scales of a matrix [N, K], row-major, by granularity. Blocks at the lower and right edge may be smaller:
 * the scale of element (r, c) is at (⌊r / height⌋, ⌊c / width⌋).
 *
 * @throws OctetError `INVALID_ARGUMENT` when `values` is not N × K.
 */
export function blockScales(
  values: Float32Array,
  shape: readonly [rows: number, columns: number],
  granularity: ScaleGranularity,
  dtype: Fp8DType,
  options: ScaleOptions = {},
): BlockScales {
  const [rows, columns] = shape
  const [height, width] = BLOCKS[granularity]
  const amax = blockAmax(values, rows, columns, height === 0 ? Math.max(rows, 1) : height, width === 0 ? Math.max(columns, 1) : width)
  const scale = amax.values.map((value) => scaleFromAmax(value, FP8_MAX[dtype], options))
  // One scale stands even for an empty tensor.
  const [down, across] = granularity === 'tensor' ? [1, 1] : granularity === 'row' ? [rows, 1] : amax.shape
  const full = scale.length === down * across ? scale : new Float32Array(down * across).fill(1)
  return { scale: full, scaleInv: full.map(inverseScale), shape: [down, across] }
}

/** The amax of each block of a matrix [N, K], row-major over blocks. */
export function blockAmax(
  values: Float32Array,
  rows: number,
  columns: number,
  height: number,
  width: number,
): { values: Float32Array; shape: readonly [number, number] } {
  if (!Number.isInteger(rows) || !Number.isInteger(columns) || rows < 0 || columns < 0 || values.length !== rows * columns) {
    throw reject('blockAmax', 'values', `[${rows}, ${columns}]`, `${values.length} values`)
  }
  const down = Math.ceil(rows / height)
  const across = Math.ceil(columns / width)
  const out = new Float32Array(down * across)
  for (let r = 0; r < rows; r++) {
    const blockRow = Math.floor(r / height) * across
    for (let c = 0; c < columns; c++) {
      const at = blockRow + Math.floor(c / width)
      const magnitude = Math.abs(values[r * columns + c] as number)
      const so = out[at] as number
      // Once NaN, always NaN.
      if (Number.isNaN(magnitude) || magnitude > so) out[at] = magnitude
    }
  }
  return { values: out, shape: [down, across] }
}

/** Values that share one E8M0 scale. */
export const MXFP8_BLOCK = 32

/**
 * The E8M0 code of a block: the exponent of `amax / fp8Max`, rounded up, so that no value of the block saturates.
 * 0 → 0, infinity → 254, NaN → 255 (as `cvt.rp.satfinite.ue8m0x2` does). `amax` is multiplied by the float32 nearest
 * to 1 / fp8Max rather than divided, as TransformerEngine's kernels do.
 */
export function e8m0FromAmax(amax: number, fp8Max: number): number {
  const value = Math.fround(Math.fround(amax) * Math.fround(1 / fp8Max))
  if (Number.isNaN(value)) return 255
  if (value === Infinity) return 254
  const bits = bitsOf(value)
  const exponent = bits >>> 23
  const mantissa = bits & 0x7fffff
  // 2^-127, the value of code 0, is a subnormal float32 with mantissa 0x400000.
  const fits = exponent === 0 ? mantissa <= 0x400000 : mantissa === 0
  return fits || exponent === 254 ? exponent : exponent + 1
}

/** What an E8M0 code de-quantizes by: 2^(code − 127); NaN for 255. */
export function e8m0ScaleInv(code: number): number {
  return code === 255 ? NaN : 2 ** (code - 127)
}

/**
 * What multiplies before the cast: 2^(127 − code). TransformerEngine takes 1 for code 0, where every value of the block
 * is 0 or below 2^-118; the exact inverse keeps those values.
 */
export function e8m0Scale(code: number): number {
  return code === 255 ? NaN : 2 ** (127 - code)
}

/**
 * E8M0 scales of a matrix [N, K]: one code for 32 values of a row; [N, ⌈K/32⌉].
 *
 * @throws OctetError `INVALID_ARGUMENT` when `values` is not N × K.
 */
export function mxfp8Scales(
  values: Float32Array,
  shape: readonly [rows: number, columns: number],
  dtype: Fp8DType,
): { codes: Uint8Array; shape: readonly [number, number] } {
  const amax = blockAmax(values, shape[0], shape[1], 1, MXFP8_BLOCK)
  return { codes: Uint8Array.from(amax.values, (value) => e8m0FromAmax(value, FP8_MAX[dtype])), shape: amax.shape }
}
