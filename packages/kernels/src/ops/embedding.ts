import type { TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, FLOATS, I32, type OpOptions } from './call.js'

export interface EmbeddingOptions extends OpOptions {
  /** [...], T ids in all, i32. */
  readonly ids: Tensor
  /** [V, D]; f32, bf16, f16, e4m3 or e5m2. */
  readonly table: Tensor
  /** Multiplies the rows in float32, before the one rounding (Gemma: sqrt(D)). Default 1. */
  readonly scale?: number
  /** Dtype of a new output. Default: the table's if f32 or bf16, else bf16. */
  readonly dtype?: 'f32' | 'bf16'
  /** [..., D] with T rows, f32 or bf16. */
  readonly out?: Tensor
}

/**
 * out[t, :] = table[ids[t], :] * scale. An id outside [0, V) is found on the device: the next sync rejects with
 * `OP_FAILED`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function embedding(options: EmbeddingOptions): Tensor {
  const call = new Call('embedding', options)
  const ids = call.contiguous('ids', options.ids, '*T', I32)
  const table = call.input('table', options.table, 'V D', FLOATS)
  const dtype: TensorDType = options.dtype ?? (table.dtype === 'f32' ? 'f32' : 'bf16')
  const scale = call.real('scale', options.scale ?? 1)
  const out = call.output('out', options.out, '*T D', [...ids.shape, call.length('D')], call.choices('dtype', dtype, ACTIVATIONS))
  call.run([ids, table, out], [scale])
  return out
}
