import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, F32, type OpOptions } from './call.js'

export interface LogSoftmaxOptions extends OpOptions {
  /** [..., V], f32 or bf16. */
  readonly x: Tensor
  /** Rows and V as x, f32. */
  readonly out?: Tensor
}

/**
 * out[n, v] = x[n, v] - log(sum_v exp(x[n, :])), in float32 with the row's maximum taken out first.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function logSoftmax(options: LogSoftmaxOptions): Tensor {
  const call = new Call('logSoftmax', options)
  const x = call.input('x', options.x, '*N V', ACTIVATIONS)
  const out = call.output('out', options.out, '*N V', x.shape, F32)
  call.run([x, out], [])
  return out
}
