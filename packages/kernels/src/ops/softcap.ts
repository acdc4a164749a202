import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, type OpOptions } from './call.js'

export interface SoftcapOptions extends OpOptions {
  /** [..., D], f32 or bf16. */
  readonly x: Tensor
  /** Bound of the result's magnitude, > 0. */
  readonly cap: number
  /** Default: a new tensor of x's shape and dtype. May be x. */
  readonly out?: Tensor
}

/**
 * out = tanh(x / cap) * cap in float32, rounded once (the logit soft-capping of Gemma 2).
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function softcap(options: SoftcapOptions): Tensor {
  const call = new Call('softcap', options)
  const x = call.input('x', options.x, '*N D', ACTIVATIONS)
  const cap = call.real('cap', options.cap, Number.MIN_VALUE)
  const out = call.output('out', options.out, '*N D', x.shape, prefer(x.dtype, ACTIVATIONS))
  call.run([x, out], [cap])
  return out
}
