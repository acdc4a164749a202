import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { Call, type OpOptions } from './call.js'

export interface ReadFileOptions extends OpOptions {
  /** Contiguous, any dtype; its bytes are overwritten. */
  readonly out: Tensor
  /** An open file that stays open until a later sync of the queue. */
  readonly fd: number
  /** First byte within the file. */
  readonly offset: number
}

/**
 * Reads out.byteLength bytes of a file straight into a tensor. A file that ends early makes the next sync reject with
 * `FILE_CHANGED`. {@link upload} is the form for checkpoints: it opens the file, converts and reports by itself.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function readFile(options: ReadFileOptions): Tensor {
  const call = new Call('readFile', options)
  const out = call.contiguous('out', options.out, null, Object.keys(DTYPE_CODES) as TensorDType[])
  const fd = call.whole('fd', options.fd)
  call.run([out], [fd, call.whole('offset', options.offset), out.byteLength])
  return out
}
