import type { TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { Call, type OpOptions } from './call.js'

/** Dtypes that a cast reads, and that it makes. */
export const CAST_FROM: readonly TensorDType[] = ['f64', 'f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'i64', 'i32', 'u8', 'bool']
export const CAST_TO: readonly TensorDType[] = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'f64', 'i32']

export interface CastOptions extends OpOptions {
  /** [..., D]; f64, f32, bf16, f16, e4m3, e5m2, i64, i32, u8 or bool. */
  readonly x: Tensor
  /** Target dtype of a new tensor: f32, bf16, f16, e4m3, e5m2, f64 or i32. Needed unless `out` is given. */
  readonly dtype?: TensorDType
  /** Rows and D as x. */
  readonly out?: Tensor
}

/**
 * Converts to another dtype: to floats by way of float32, round to nearest even; FP8 saturates; NaN becomes the
 * canonical code of the target. To i32: truncation, saturating, NaN gives 0. Returns the result.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function cast(options: CastOptions): Tensor {
  const call = new Call('cast', options)
  const x = call.input('x', options.x, '*N D', CAST_FROM)
  const dtype = options.out?.dtype ?? options.dtype
  if (dtype === undefined || !CAST_TO.includes(dtype)) return call.fail('dtype', `one of ${CAST_TO.join(', ')}`, String(dtype))
  if (dtype === 'f64' && x.dtype === 'f64') call.fail('dtype', 'another dtype than x', 'f64', 'use copy()')
  const out = call.output('out', options.out, '*N D', x.shape, [dtype])
  call.run([x, out], [])
  return out
}
