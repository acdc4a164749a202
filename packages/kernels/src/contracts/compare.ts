import type { TensorDType } from '../dtype-codes.js'
import type { Expected } from './contract.js'
import { FORMATS, U, isFormat } from './host.js'

/** Elements below which a whole's rounding errors do not average out. */
const MANY = 256
/** Columns below which a row's elements are held by their own bounds only. */
const FEW = 8
/** Squared norm below which relative errors say nothing: intermediates fall among the subnormals. */
const SMALL = 1e-60

/**
 * What is wrong with an output, or null. Every element is checked against its own bound; then every row and the whole
 * against the tighter 2-norm bound.
 */
export function compare(actual: Float64Array, expected: Expected, dtype: TensorDType, cols: number): string | null {
  const { values } = expected
  if (actual.length !== values.length) return `has ${actual.length} elements, the reference ${values.length}`
  let wrong = 0
  let first = -1
  for (let i = 0; i < actual.length; i++) {
    if (right(actual[i]!, expected, dtype, i) || (Number.isNaN(actual[i]!) && expected.maybeNaN?.(i) === true)) continue
    wrong++
    if (first < 0) first = i
  }
  if (wrong > 0) {
    const bound = expected.error === undefined ? 'exactly' : `within ${errorAt(expected, first).toExponential(2)} and a rounding`
    const place = cols > 0 ? `[${Math.floor(first / cols)}, ${first % cols}]` : `[${first}]`
    return `${wrong} of ${actual.length} elements wrong; first ${place}: ${bound} ${values[first]}, got ${actual[first]}`
  }
  return expected.rms === undefined || expected.accepts !== undefined || !isFormat(dtype) ? null : compareRows(actual, expected, dtype, cols)
}

/** What a kernel that multiplies in narrow types is held to. */
export function widened(expected: Expected): Expected {
  const { narrow } = expected
  if (narrow === undefined) return expected
  const { maybeNaN = expected.maybeNaN } = narrow
  return {
    values: expected.values,
    error: narrow.error.map((error, i) => error + errorAt(expected, i)),
    ...(expected.rms !== undefined && { rms: expected.rms + narrow.rms }),
    ...(maybeNaN && { maybeNaN }),
  }
}

function errorAt(expected: Expected, i: number): number {
  return typeof expected.error === 'number' ? expected.error : (expected.error?.[i] ?? 0)
}

function right(got: number, expected: Expected, dtype: TensorDType, i: number): boolean {
  if (expected.accepts !== undefined) return expected.accepts(i, got)
  const want = expected.values[i]!
  if (expected.error === undefined) return Object.is(got, want)
  if (Number.isNaN(want)) return Number.isNaN(got)
  if (!Number.isFinite(want)) return got === want
  if (!isFormat(dtype)) return got === want
  const { unit, max, tiny } = FORMATS[dtype]
  const error = errorAt(expected, i)
  const magnitude = Math.abs(want) + error
  if (Math.abs(got - want) <= error + Math.max(magnitude * unit, tiny)) return true
  // Past the largest value the store gives infinity.
  return Math.abs(got) === Infinity && Math.sign(got) === Math.sign(want) && magnitude * (1 + unit) > max
}

function compareRows(actual: Float64Array, expected: Expected, dtype: keyof typeof FORMATS, cols: number): string | null {
  const { unit } = FORMATS[dtype]
  const own = expected.rms! * U
  let allError = 0
  let allSize = 0
  let worst = 0
  let worstRow = -1
  for (let row = 0; row * cols < actual.length; row++) {
    let error = 0
    let size = 0
    for (let i = row * cols; i < (row + 1) * cols; i++) {
      const want = expected.values[i]!
      if (!Number.isFinite(want) || !Number.isFinite(actual[i]!)) continue
      error += (actual[i]! - want) ** 2
      size += want ** 2
    }
    allError += error
    allSize += size
    const relative = size > SMALL && cols >= FEW ? Math.sqrt(error / size) : 0
    if (relative > worst) [worst, worstRow] = [relative, row]
  }
  // The root mean square of many roundings is below 0.58 of the unit.
  if (worst > unit + own) return `row ${worstRow} is off by ${worst.toExponential(2)} of its norm, bound ${(unit + own).toExponential(2)}`
  const all = allSize > SMALL ? Math.sqrt(allError / allSize) : 0
  if (actual.length >= MANY && all > 0.7 * unit + own) return `off by ${all.toExponential(2)} of its norm, bound ${(0.7 * unit + own).toExponential(2)}`
  return null
}
