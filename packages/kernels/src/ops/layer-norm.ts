import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, type OpOptions } from './call.js'

export interface LayerNormOptions extends OpOptions {
  /** [..., D], f32 or bf16. */
  readonly x: Tensor
  /** [D], f32 or bf16. */
  readonly weight: Tensor
  /** [D], f32 or bf16. */
  readonly bias?: Tensor
  /** Added to the variance. Default 1e-5. */
  readonly eps?: number
  /** Multiply by 1 + weight. Default false. */
  readonly zeroCenteredGamma?: boolean
  /** Rows and D as x; added to x before the norm. */
  readonly residual?: Tensor
  /** Receives the sum s = round(x + residual), or x. Needs rows and D as x. */
  readonly residualOut?: Tensor
  /** Default: a new tensor of x's shape and dtype. */
  readonly out?: Tensor
}

/**
 * out[n,d] = (s[n,d] - mean) / sqrt(var + eps) * weight[d] + bias[d], s = x (+ residual), mean and (biased) variance
 * over d; float32 inside, rounded at the store (Ba et al., "Layer Normalization", 2016).
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function layerNorm(options: LayerNormOptions): Tensor {
  const call = new Call('layerNorm', options)
  const x = call.input('x', options.x, '*N D', ACTIVATIONS)
  const weight = call.input('weight', options.weight, 'D', ACTIVATIONS)
  const bias = call.optional('bias', options.bias, 'D', ACTIVATIONS)
  const residual = call.optional('residual', options.residual, '*N D', ACTIVATIONS)
  const residualOut = call.optional('residualOut', options.residualOut, '*N D', ACTIVATIONS)
  const eps = call.real('eps', options.eps ?? 1e-5, 0)
  const out = call.output('out', options.out, '*N D', x.shape, prefer(x.dtype, ACTIVATIONS))
  call.run([x, weight, bias, residual, out, residualOut], [eps, options.zeroCenteredGamma ?? false])
  return out
}
