import { OctetError, type DType } from '@octet-llm/core'

/** Data types a tensor on a device may have, by their native code (`DType` in native/include/octet/op.h). */
export const DTYPE_CODES = {
  f32: 0,
  bf16: 1,
  f16: 2,
  e4m3: 3,
  e5m2: 4,
  i32: 5,
  u8: 6,
  f64: 7,
  i64: 8,
  bool: 9,
} as const satisfies Partial<Record<DType, number>>

/** A data type that tensors on a device may have. */
export type TensorDType = keyof typeof DTYPE_CODES

export function isTensorDType(dtype: unknown): dtype is TensorDType {
  return typeof dtype === 'string' && Object.hasOwn(DTYPE_CODES, dtype)
}

/** @throws OctetError `DTYPE_MISMATCH` when no device tensor can have this dtype. */
export function checkTensorDType(dtype: unknown, op: string, argument = 'dtype'): asserts dtype is TensorDType {
  if (isTensorDType(dtype)) return
  throw new OctetError('DTYPE_MISMATCH', {
    op,
    argument,
    expected: `one of ${Object.keys(DTYPE_CODES).join(', ')}`,
    received: String(dtype),
  })
}
