import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { Call, I32, type OpOptions } from './call.js'

export interface GatherRowsOptions extends OpOptions {
  /** [..., D] with N rows, any dtype. */
  readonly x: Tensor
  /** [R], i32, each in [0, N). */
  readonly rows: Tensor
  /** [R, D], dtype of x. */
  readonly out?: Tensor
}

/**
 * out[r, :] = x[rows[r], :]. A row outside x is found on the device: the next sync rejects with `OP_FAILED`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function gatherRows(options: GatherRowsOptions): Tensor {
  const call = new Call('gatherRows', options)
  const x = call.input('x', options.x, '*N D', Object.keys(DTYPE_CODES) as TensorDType[])
  const rows = call.input('rows', options.rows, 'R', I32)
  const out = call.output('out', options.out, '*R D', [call.length('R'), call.length('D')], [x.dtype])
  call.run([x, rows, out], [])
  return out
}
