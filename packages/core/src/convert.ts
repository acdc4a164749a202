/**
 * Bit-exact conversions between float32 and the narrow float types, for references, readers and tests.
 * Rounding is to nearest, ties to even. NaN becomes the canonical code of the target
 * (bf16 0x7fc0, f16 0x7e00, e4m3 0x7f, e5m2 0x7f).
 */
const f32 = new Float32Array(1)
const u32 = new Uint32Array(f32.buffer)

/** float32 → bf16 bits, round to nearest even. */
export function f32ToBf16(value: number): number {
  f32[0] = value
  const bits = u32[0]!
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

/** bf16 bits → float32, exact. */
export function bf16ToF32(bits: number): number {
  u32[0] = (bits << 16) >>> 0
  return f32[0]!
}

/** The nearest bf16 value of a number. */
export function roundBf16(value: number): number {
  return bf16ToF32(f32ToBf16(value))
}

/** Rounds a finite magnitude to a binary format; returns it as an exact number. */
function roundToFormat(magnitude: number, mantissaBits: number, minExponent: number): number {
  if (magnitude === 0) return 0
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), minExponent)
  // log2 can be off by one next to a power of two: settle it exactly.
  let e = exponent
  if (2 ** (e + 1) <= magnitude) e += 1
  else if (e > minExponent && 2 ** e > magnitude) e -= 1
  const quantum = 2 ** (e - mantissaBits)
  const scaled = magnitude / quantum
  const floor = Math.floor(scaled)
  const rest = scaled - floor
  const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
  return rounded * quantum
}

function encode(value: number, mantissaBits: number, exponentBits: number): number {
  const bias = 2 ** (exponentBits - 1) - 1
  const minExponent = 1 - bias
  if (value === 0) return 0
  const e = Math.max(Math.floor(Math.log2(value)), minExponent)
  const exact = 2 ** (e + 1) <= value ? e + 1 : e > minExponent && 2 ** e > value ? e - 1 : e
  const mantissa = value / 2 ** (exact - mantissaBits)
  if (mantissa < 2 ** mantissaBits) return mantissa
  return (exact + bias) * 2 ** mantissaBits + (mantissa - 2 ** mantissaBits)
}

/** float32 → f16 bits, round to nearest even; past 65504 (rounded) becomes infinity. */
export function f32ToF16(value: number): number {
  const v = Math.fround(value)
  if (Number.isNaN(v)) return 0x7e00
  const sign = v < 0 || Object.is(v, -0) ? 0x8000 : 0
  if (Math.abs(v) >= 65520) return sign | 0x7c00
  return sign | encode(roundToFormat(Math.abs(v), 10, -14), 10, 5)
}

/** f16 bits → float32, exact. */
export function f16ToF32(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 0x1f
  const mantissa = bits & 0x3ff
  if (exponent === 0x1f) return mantissa === 0 ? sign * Infinity : NaN
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15))
}

/** float32 → e4m3 byte, saturating at ±448; NaN → 0x7f. */
export function f32ToE4m3(value: number): number {
  const v = Math.fround(value)
  if (Number.isNaN(v)) return 0x7f
  const sign = v < 0 || Object.is(v, -0) ? 0x80 : 0
  const magnitude = Math.abs(v) >= 448 ? 448 : Math.min(448, roundToFormat(Math.abs(v), 3, -6))
  return sign | encode(magnitude, 3, 4)
}

/** float32 → e5m2 byte, saturating at ±57344; NaN → 0x7f. */
export function f32ToE5m2(value: number): number {
  const v = Math.fround(value)
  if (Number.isNaN(v)) return 0x7f
  const sign = v < 0 || Object.is(v, -0) ? 0x80 : 0
  const magnitude = Math.abs(v) >= 57344 ? 57344 : Math.min(57344, roundToFormat(Math.abs(v), 2, -14))
  return sign | encode(magnitude, 2, 5)
}

function decodeTable(decode: (bits: number) => number): Float32Array {
  return Float32Array.from({ length: 256 }, (_, bits) => decode(bits))
}

/** e4m3 byte → float32, exact, as a 256-entry table. */
export const E4M3_TO_F32: Float32Array = decodeTable((bits) => {
  const sign = bits & 0x80 ? -1 : 1
  const exponent = (bits >>> 3) & 15
  const mantissa = bits & 7
  if (exponent === 15 && mantissa === 7) return NaN
  return sign * (exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7))
})

/** e5m2 byte → float32, exact, as a 256-entry table. */
export const E5M2_TO_F32: Float32Array = decodeTable((bits) => f16ToF32(bits << 8))
