import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, type OpOptions } from './call.js'

export interface AddOptions extends OpOptions {
  /** [..., D], f32 or bf16. */
  readonly a: Tensor
  /** Rows and D as a; f32 or bf16. */
  readonly b: Tensor
  /** Default: a new tensor of a's shape and dtype. May be a or b. */
  readonly out?: Tensor
}

/**
 * out = a + b, summed in float32, rounded once.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function add(options: AddOptions): Tensor {
  const call = new Call('add', options)
  const a = call.input('a', options.a, '*N D', ACTIVATIONS)
  const b = call.input('b', options.b, '*N D', ACTIVATIONS)
  const out = call.output('out', options.out, '*N D', a.shape, prefer(a.dtype, ACTIVATIONS))
  call.run([a, b, out], [])
  return out
}
