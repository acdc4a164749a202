import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, type OpOptions } from './call.js'

/** Native codes of the kinds; a gated activation uses the same function on its gate. */
const KIND_CODES = { gelu: 0, relu: 2, silu: 1, qgelu: 3, srelu: 4, sigmoid: 5, geluErf: 6 } as const

/**
 * `gelu`: tanh form; `geluErf`: exact form; `silu`: x sigmoid(x); `qgelu`: x sigmoid(1.702 x); `srelu`: relu(x)^2.
 */
export type ActivationKind = keyof typeof KIND_CODES

export interface ActivationOptions extends OpOptions {
  /** [..., D], f32 or bf16. */
  readonly x: Tensor
  readonly kind: ActivationKind
  /** Default: a new tensor of x's shape and dtype. May be x. */
  readonly out?: Tensor
}

/**
 * out = kind(x) in float32, rounded once.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function activation(options: ActivationOptions): Tensor {
  const call = new Call('activation', options)
  const x = call.input('x', options.x, '*N D', ACTIVATIONS)
  const kind = call.choose('kind', options.kind, KIND_CODES)
  const out = call.output('out', options.out, '*N D', x.shape, prefer(x.dtype, ACTIVATIONS))
  call.run([x, out], [kind])
  return out
}
