/** The rules once more, written another way: exact rationals and plain arrays. Shared by this folder's tests; not shipped. */
import fc from 'fast-check'

interface Rational {
  readonly n: bigint
  readonly d: bigint
}

/** A finite float32 as an exact fraction. */
export function exact(value: number): Rational {
  const view = new DataView(new ArrayBuffer(4))
  view.setFloat32(0, value)
  const bits = view.getUint32(0)
  const exponent = (bits >>> 23) & 0xff
  const fraction = BigInt(exponent === 0 ? bits & 0x7fffff : (bits & 0x7fffff) | 0x800000)
  const power = (exponent === 0 ? 1 : exponent) - 150
  const n = bits >>> 31 === 1 ? -fraction : fraction
  return power >= 0 ? { n: n << BigInt(power), d: 1n } : { n, d: 1n << BigInt(-power) }
}

/** n/d > 0 as the nearest float32, ties to even, with subnormals and overflow. */
export function nearestFloat32({ n, d }: Rational): number {
  // The power of two of the last place: at least 2^-149, and such that the quotient has 24 bits.
  let power = -149
  while (n >= (d << 24n) * (power < 0 ? 1n : 1n << BigInt(power)) / (power < 0 ? 1n << BigInt(-power) : 1n)) power++
  const num = power < 0 ? n << BigInt(-power) : n
  const den = power < 0 ? d : d << BigInt(power)
  const floor = num / den
  const twice = 2n * (num - floor * den)
  const rounded = twice > den || (twice === den && floor % 2n === 1n) ? floor + 1n : floor
  const value = Number(rounded) * 2 ** power
  return value > 3.4028234663852886e38 ? Infinity : value
}

export function divide(a: number, b: number): number {
  const [x, y] = [exact(a), exact(b)]
  return nearestFloat32({ n: x.n * y.d, d: x.d * y.n })
}

export function multiply(a: number, b: number): number {
  const [x, y] = [exact(a), exact(b)]
  return x.n === 0n || y.n === 0n ? 0 : nearestFloat32({ n: x.n * y.n, d: x.d * y.d })
}

/** The largest power of two not above a positive float32, by comparing. */
export function powerBelow(value: number): number {
  let power = 2 ** -149
  while (power * 2 <= value) power *= 2
  return power
}

/** Any float32 from 0 on, special values often. */
export const magnitudes = fc.oneof(
  fc.constantFrom(0, Infinity, NaN, 3.4028234663852886e38, 2 ** -149, 2 ** -126, 448, 57344, 1, 2 ** -127, 448 * 2 ** -127),
  fc.float({ min: 0, noNaN: true, noDefaultInfinity: true }),
  // Uniform in the exponent.
  fc.tuple(fc.integer({ min: 0, max: 254 }), fc.nat(0x7fffff)).map(([exponent, fraction]) => {
    const view = new DataView(new ArrayBuffer(4))
    view.setUint32(0, ((exponent << 23) | fraction) >>> 0)
    return view.getFloat32(0)
  }),
)
