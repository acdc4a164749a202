import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, F32, type OpOptions } from './call.js'

const GRANULARITY_CODES = { tensor: 1, row: 2 } as const

export interface AmaxOptions extends OpOptions {
  /** [..., D] with N rows, f32 or bf16. */
  readonly x: Tensor
  /** One maximum for all, or one per row. Default `tensor`. */
  readonly granularity?: keyof typeof GRANULARITY_CODES
  /** [1] or [N], f32. */
  readonly out?: Tensor
}

/**
 * out = max |x|, over everything or per row; 0 for no elements.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function amax(options: AmaxOptions): Tensor {
  const call = new Call('amax', options)
  const x = call.input('x', options.x, '*N D', ACTIVATIONS)
  const granularity = call.choose('granularity', options.granularity ?? 'tensor', GRANULARITY_CODES)
  const count = granularity === 1 ? 1 : call.length('N')
  const out = call.output('out', options.out, granularity === 1 ? '1' : 'N', [count], F32)
  call.run([x, out], [granularity])
  return out
}
