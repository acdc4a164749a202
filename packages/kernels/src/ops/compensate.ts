import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, E4M3, F32, type OpOptions, type QuantizedTensor } from './call.js'

export interface CompensateOptions extends OpOptions {
  /** The values that were quantized, [N, K], f32 or bf16. */
  readonly x: Tensor
  /** [K, S] f32: the second moments of the inputs that the weight multiplies, as {@link gram} sums them up. */
  readonly moments: Tensor
  /** What {@link quantize} made of x, in e4m3; its codes change in place, its scales do not. */
  readonly quantized: QuantizedTensor
  /** Most visits of a column. Default 4: more gain next to nothing. */
  readonly passes?: number
}

/**
 * Moves codes so that the weight's errors cancel in a product with such inputs: E = x - data * scaleInv, tr(E H Eᵀ) falls with
 * every code that changes, H being the moments, and scales and form stay as they were. Coordinate descent: a row's code becomes
 * the best there is while its others stay, column after column of a window of S channels (QuantEase, Behdin et al. 2023).
 * Uncorrelated inputs, inputs that were always 0 and rows or windows with values that are not finite change nothing.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function compensate(options: CompensateOptions): QuantizedTensor {
  const { quantized, passes = 4 } = options
  const call = new Call('compensate', options)
  const x = call.input('x', options.x, 'N K', ACTIVATIONS)
  const moments = call.input('moments', options.moments, 'K S', F32)
  if (call.length('S') === 0) call.fail('moments', 'windows of at least one channel', 'windows of none')
  const code = call.granularity('quantized.granularity', quantized.granularity)
  const data = call.input('quantized.data', quantized.data, 'N K', E4M3)
  const scaleInv = call.scales('quantized.scaleInv', quantized.scaleInv, quantized.granularity, call.length('N'), call.length('K'))
  call.run([x, moments, data, scaleInv], [code, call.whole('passes', passes, 0, 1000)])
  return quantized
}
