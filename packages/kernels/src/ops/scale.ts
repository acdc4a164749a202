import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, type OpOptions } from './call.js'

export interface ScaleOptions extends OpOptions {
  /** [..., D], f32 or bf16. */
  readonly x: Tensor
  /** Rounded to float32. */
  readonly factor: number
  /** Default: a new tensor of x's shape and dtype. May be x. */
  readonly out?: Tensor
}

/**
 * out = x * factor in float32, rounded once.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function scale(options: ScaleOptions): Tensor {
  const call = new Call('scale', options)
  const x = call.input('x', options.x, '*N D', ACTIVATIONS)
  const factor = call.real('factor', options.factor)
  const out = call.output('out', options.out, '*N D', x.shape, prefer(x.dtype, ACTIVATIONS))
  call.run([x, out], [factor])
  return out
}
