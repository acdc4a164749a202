import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, I32, prefer } from './call.js'
import { checkCache, type KvCacheTensors } from './kv-append.js'
import { checkHeadDim, rotation, type RotationOptions } from './rope.js'

export interface RopeKvAppendOptions extends RotationOptions, KvCacheTensors {
  /** [T, (H + 2 Hkv) * D], f32 or bf16: the columns are Q, then K, then V, head by head. */
  readonly qkv: Tensor
  /** [T], i32: row of `pageTable` that the token belongs to. */
  readonly rowOf: Tensor
  /** [T], i32: place in the sequence's cache; negative stores nothing. */
  readonly cachePositions: Tensor
  /** H. */
  readonly heads: number
  /** Hkv. */
  readonly kvHeads: number
  /** [D], f32 or bf16: RMSNorm of each query head before the rotation (Gemma 3). */
  readonly qNorm?: Tensor
  /** [D], f32 or bf16: the same for key heads. */
  readonly kNorm?: Tensor
  /** [T, H*D], f32 or bf16: the rotated queries. Default: a new tensor of qkv's dtype. */
  readonly qOut?: Tensor
}

/**
 * {@link rope} on Q and K and {@link kvAppend} of K and V in one pass over the fused projection. Returns the rotated
 * queries [T, H*D]. Indices outside their tables are found on the device: the next sync rejects with `OP_FAILED`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function ropeKvAppend(options: RopeKvAppendOptions): Tensor {
  const call = new Call('ropeKvAppend', options)
  const heads = call.whole('heads', options.heads, 1)
  const kvHeads = call.whole('kvHeads', options.kvHeads, 1)
  const headDim = checkHeadDim(call, options.headDim)
  call.axis('Hkv', kvHeads).axis('H*D', heads * headDim).axis('(H+2Hkv)*D', (heads + 2 * kvHeads) * headDim)
  const qkv = call.input('qkv', options.qkv, '*T (H+2Hkv)*D', ACTIVATIONS)
  const attrs = rotation(call, options)
  const [kScaleInv, vScaleInv] = checkCache(call, options)
  const rowOf = call.input('rowOf', options.rowOf, 'T', I32)
  const cachePositions = call.input('cachePositions', options.cachePositions, 'T', I32)
  const qNorm = call.optional('qNorm', options.qNorm, 'D', ACTIVATIONS)
  const kNorm = call.optional('kNorm', options.kNorm, 'D', ACTIVATIONS)
  const qOut = call.output('qOut', options.qOut, '*T H*D', [call.length('T'), heads * headDim], prefer(qkv.dtype, ACTIVATIONS))
  const tables = [options.positions, options.cos, options.sin]
  const cache = [options.kCache, options.vCache, options.pageTable]
  call.run([qkv, ...tables, qOut, ...cache, rowOf, cachePositions, qNorm, kNorm, kScaleInv, vScaleInv], [heads, kvHeads, headDim, ...attrs])
  return qOut
}
