import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, I32, type OpOptions } from './call.js'

export interface ArgmaxOptions extends OpOptions {
  /** [..., V] with N rows, f32 or bf16; V >= 1. */
  readonly x: Tensor
  /** [N], i32. */
  readonly out?: Tensor
}

/**
 * out[n] = index of the largest of x[n, :]; the lowest one among equals. NaN never wins unless all are NaN (then 0).
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function argmax(options: ArgmaxOptions): Tensor {
  const call = new Call('argmax', options)
  const x = call.input('x', options.x, '*N V', ACTIVATIONS)
  if (call.length('V') === 0) call.fail('x', 'at least one column', '0')
  const out = call.output('out', options.out, '*N', [call.length('N')], I32)
  call.run([x, out], [])
  return out
}
