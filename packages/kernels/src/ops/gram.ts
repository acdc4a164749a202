import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, F32, type OpOptions } from './call.js'

export interface GramOptions extends OpOptions {
  /** [..., K] with N rows, f32 or bf16. */
  readonly x: Tensor
  /**
   * [K, S] f32, added to: row k has the second moments of channel k with the channels of its window, which begins at
   * k - k % S. Of a last window that is narrower only as many columns have a meaning.
   */
  readonly out: Tensor
}

/**
 * out[k, j] += sum of x[n, k] * x[n, k - k % S + j] over the rows: the second moments of a projection's input, in windows of S
 * channels along the diagonal. Accumulated in float32.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function gram(options: GramOptions): Tensor {
  const call = new Call('gram', options)
  const x = call.input('x', options.x, '*N K', ACTIVATIONS)
  const out = call.input('out', options.out, 'K S', F32)
  if (call.length('S') === 0) call.fail('out', 'windows of at least one channel', 'windows of none')
  call.run([x, out], [])
  return out
}
