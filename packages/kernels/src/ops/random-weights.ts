import type { Tensor } from '../tensor.js'
import { Call, FLOATS, type OpOptions } from './call.js'
import { seedWords } from './seed.js'

export interface RandomWeightsOptions extends OpOptions {
  /** Any shape; f32, bf16, f16, e4m3 or e5m2. */
  readonly out: Tensor
  /** Whole number below 2^53. */
  readonly seed: number
  /** Standard deviation of the values. Default 0.02. */
  readonly std?: number
  /** Tells the tensors of one model apart; a whole number below 2^32. Default 0. */
  readonly stream?: number
}

/**
 * Fills `out` with std * sqrt(3) * (2u - 1): uniform values of the given deviation, where u comes from the Philox word
 * of (element index, stream) under `seed`. The formula is public so that other programs can make the same weights.
 * Returns `out`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function randomWeights(options: RandomWeightsOptions): Tensor {
  const call = new Call('randomWeights', options)
  const out = call.input('out', options.out, null, FLOATS)
  const [low, high] = seedWords(call, options.seed)
  call.run([out], [low, high, call.real('std', options.std ?? 0.02, 0), call.whole('stream', options.stream ?? 0, 0, 0xffffffff)])
  return out
}
