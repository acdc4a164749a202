import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { Call, I32, type OpOptions } from './call.js'

export interface ScatterRowsOptions extends OpOptions {
  /** [..., D] with R rows, any dtype. */
  readonly x: Tensor
  /** [R], i32, each in [0, N) and none twice. */
  readonly rows: Tensor
  /** [..., D] with N rows, dtype of x; rows that `rows` does not name keep their values. */
  readonly out: Tensor
}

/**
 * out[rows[r], :] = x[r, :]. Returns `out`. A row outside `out` is found on the device: the next sync rejects with
 * `OP_FAILED`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function scatterRows(options: ScatterRowsOptions): Tensor {
  const call = new Call('scatterRows', options)
  const x = call.input('x', options.x, '*R D', Object.keys(DTYPE_CODES) as TensorDType[])
  const rows = call.input('rows', options.rows, 'R', I32)
  const out = call.input('out', options.out, '*N D', [x.dtype])
  call.run([x, rows, out], [])
  return out
}
