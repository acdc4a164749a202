/**
 * Data types by the names that the safetensors format and PyTorch users know, in short form.
 * `e4m3` is the finite-only float8_e4m3fn (max 448), `e5m2` the IEEE-like float8_e5m2 (max 57344).
 */
export const DTYPES = {
  f64: { bits: 64, kind: 'float' },
  f32: { bits: 32, kind: 'float' },
  f16: { bits: 16, kind: 'float' },
  bf16: { bits: 16, kind: 'float' },
  e4m3: { bits: 8, kind: 'float' },
  e5m2: { bits: 8, kind: 'float' },
  e8m0: { bits: 8, kind: 'float' },
  i64: { bits: 64, kind: 'int' },
  i32: { bits: 32, kind: 'int' },
  i16: { bits: 16, kind: 'int' },
  i8: { bits: 8, kind: 'int' },
  u64: { bits: 64, kind: 'uint' },
  u32: { bits: 32, kind: 'uint' },
  u16: { bits: 16, kind: 'uint' },
  u8: { bits: 8, kind: 'uint' },
  bool: { bits: 8, kind: 'bool' },
} as const satisfies Record<string, { bits: number; kind: 'float' | 'int' | 'uint' | 'bool' }>

export type DType = keyof typeof DTYPES

/** The floating types an activation or a weight may have on a device. */
export type FloatDType = 'f32' | 'f16' | 'bf16'
/** The 8-bit floating types. */
export type Fp8DType = 'e4m3' | 'e5m2'

/** Bytes of one element. */
export function itemSize(dtype: DType): number {
  return DTYPES[dtype].bits / 8
}

export function isDType(value: unknown): value is DType {
  return typeof value === 'string' && Object.hasOwn(DTYPES, value)
}

export function isFloat(dtype: DType): boolean {
  return DTYPES[dtype].kind === 'float'
}
