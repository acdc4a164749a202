import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { Call, type OpOptions } from './call.js'

export interface FillOptions extends OpOptions {
  /** Any shape and dtype. */
  readonly out: Tensor
  /** Rounded to a floating dtype, truncated to an integer one. */
  readonly value: number
}

/**
 * Sets every element of `out` to `value`. Returns `out`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function fill(options: FillOptions): Tensor {
  const call = new Call('fill', options)
  const out = call.input('out', options.out, null, Object.keys(DTYPE_CODES) as TensorDType[])
  if (typeof options.value !== 'number') call.fail('value', 'a number', typeof options.value)
  call.run([out], [options.value])
  return out
}
