import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, type OpOptions, type QuantizedOutput } from './call.js'

export interface RmsNormOptions extends OpOptions {
  /** [..., D], f32 or bf16. */
  readonly x: Tensor
  /** [D], f32 or bf16. */
  readonly weight: Tensor
  /** Added to the mean square. Default 1e-6. */
  readonly eps?: number
  /** Multiply by 1 + weight (Gemma). Default false. */
  readonly zeroCenteredGamma?: boolean
  /** Round the normalized value to the output's dtype before the weight (Llama's order). Default false. */
  readonly castBeforeWeight?: boolean
  /** Rows and D as x; added to x before the norm. */
  readonly residual?: Tensor
  /** Receives the sum s = round(x + residual), or x. Needs rows and D as x. */
  readonly residualOut?: Tensor
  /** Default: a new tensor of x's shape and dtype. */
  readonly out?: Tensor
  /** Receives the result instead of `out`: rounded to x's dtype, then quantized to e4m3. [..., D]. */
  readonly quantized?: QuantizedOutput
}

/**
 * out[n,d] = s[n,d] / sqrt(mean_d(s[n,:]^2) + eps) * weight[d], s = x (+ residual); float32 inside, rounded at the
 * store (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).
 *
 * @returns out, or quantized.data
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function rmsNorm(options: RmsNormOptions): Tensor {
  const call = new Call('rmsNorm', options)
  const x = call.input('x', options.x, '*N D', ACTIVATIONS)
  const weight = call.input('weight', options.weight, 'D', ACTIVATIONS)
  const residual = call.optional('residual', options.residual, '*N D', ACTIVATIONS)
  const residualOut = call.optional('residualOut', options.residualOut, '*N D', ACTIVATIONS)
  const eps = call.real('eps', options.eps ?? 1e-6, 0)
  const attributes = [eps, options.zeroCenteredGamma ?? false, options.castBeforeWeight ?? false]
  if (options.quantized !== undefined) {
    if (options.out !== undefined) call.fail('out', 'no out beside quantized', 'both')
    const target = call.quantizedOutput(options.quantized, '*N D', call.length('N'), call.length('D'))
    const [data, scaleInv, scale] = target.tensors
    if (call.length('N') * call.length('D') === 0) call.runWithoutElements(x, target)
    else call.run([x, weight, residual, data, residualOut, scaleInv, scale], [...attributes, ...target.attributes])
    return data
  }
  const out = call.output('out', options.out, '*N D', x.shape, prefer(x.dtype, ACTIVATIONS))
  call.run([x, weight, residual, out, residualOut, null, null], [...attributes, 0, false, 0])
  return out
}
