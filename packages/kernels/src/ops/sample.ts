import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, I32, type OpOptions } from './call.js'
import { seedWords } from './seed.js'

export interface SampleOptions extends OpOptions {
  /** [..., V] with N rows, f32 or bf16; V >= 1. */
  readonly logits: Tensor
  /** [N], i32: identity of each row's sequence; with `positions` it fixes the random number. */
  readonly sequenceIds: Tensor
  /** [N], i32: position of the token to be drawn. */
  readonly positions: Tensor
  /** 64-bit seed as a whole number below 2^53. */
  readonly seed: number
  /** Divides the logits, > 0. Default 1. */
  readonly temperature?: number
  /** Keeps the k most likely. Default 0: all. */
  readonly topK?: number
  /** Keeps the smallest set of the most likely whose probability reaches p. Default 1: all. */
  readonly topP?: number
  /** Keeps those with at least minP times the largest probability. Default 0: all. */
  readonly minP?: number
  /** [N], i32. */
  readonly out?: Tensor
}

/**
 * Draws one index per row: temperature, top-k, top-p, min-p in this order, then the inverse CDF at
 * `philoxUniform(seed, sequenceId, position)` of core. The draw depends on nothing else: not on the row's place in the
 * batch, nor on other rows.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function sample(options: SampleOptions): Tensor {
  const call = new Call('sample', options)
  const logits = call.input('logits', options.logits, '*N V', ACTIVATIONS)
  if (call.length('V') === 0) call.fail('logits', 'at least one column', '0')
  const sequenceIds = call.input('sequenceIds', options.sequenceIds, 'N', I32)
  const positions = call.input('positions', options.positions, 'N', I32)
  const attrs = [
    ...seedWords(call, options.seed),
    call.real('temperature', options.temperature ?? 1, Number.MIN_VALUE),
    call.whole('topK', options.topK ?? 0),
    call.real('topP', options.topP ?? 1, 0, 1),
    call.real('minP', options.minP ?? 0, 0, 1),
  ]
  const out = call.output('out', options.out, '*N', [call.length('N')], I32)
  call.run([logits, out, sequenceIds, positions], attrs)
  return out
}
