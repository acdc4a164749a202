import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { Call, type OpOptions } from './call.js'

export interface CopyOptions extends OpOptions {
  /** [..., D], any dtype. */
  readonly x: Tensor
  /** Rows and D as x, same dtype, own row stride. Default: a new contiguous tensor. */
  readonly out?: Tensor
}

/**
 * Copies the elements of x, whatever the row strides on either side. Returns the copy.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function copy(options: CopyOptions): Tensor {
  const call = new Call('copy', options)
  const x = call.input('x', options.x, '*N D', Object.keys(DTYPE_CODES) as TensorDType[])
  const out = call.output('out', options.out, '*N D', x.shape, [x.dtype])
  call.run([x, out], [])
  return out
}
