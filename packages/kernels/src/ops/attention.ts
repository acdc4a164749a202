import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, I32, prefer, type OpOptions } from './call.js'
import { checkCache, type KvCacheTensors } from './kv-append.js'
import { checkHeadDim } from './rope.js'

export interface AttentionOptions extends OpOptions, KvCacheTensors {
  /** [T, H*D], f32 or bf16: the new tokens of B sequences, one after another. */
  readonly q: Tensor
  /** [B + 1], i32: first row of each sequence in q, and T. */
  readonly cuSeqlensQ: Tensor
  /** [B], i32: tokens in the cache of each sequence, the new ones included. */
  readonly kvLens: Tensor
  /** H, a multiple of Hkv. */
  readonly heads: number
  /** Hkv. */
  readonly kvHeads: number
  /** D, even, at most 256. */
  readonly headDim: number
  /** Multiplies q · k. Default 1 / sqrt(D). */
  readonly scale?: number
  /** The last query sees all keys, the one before it one fewer, … Default true. */
  readonly causal?: boolean
  /** A query at position p sees keys at positions > p - window only. Default 0: no bound. */
  readonly window?: number
  /** Scores become tanh(s / softcap) * softcap. Default 0: none. */
  readonly softcap?: number
  /** Upper bound of new tokens per sequence. Default T. */
  readonly maxSeqlenQ?: number
  /** Upper bound of kvLens. Default: what the page table can hold. */
  readonly maxSeqlenKv?: number
  /** [T, H*D]. Default: a new tensor of q's dtype. */
  readonly out?: Tensor
}

/**
 * Attention of new tokens over a paged cache, prefill and decode alike: softmax(q kᵀ scale + mask) v per head, with H/Hkv
 * query heads on each key head. Keys are walked in chunks of 256 positions combined in order, so a row's result does not
 * depend on the batch, on padding or on how the prompt was split.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function attention(options: AttentionOptions): Tensor {
  const call = new Call('attention', options)
  const heads = call.whole('heads', options.heads, 1)
  const kvHeads = call.whole('kvHeads', options.kvHeads, 1)
  if (heads % kvHeads !== 0) call.fail('heads', `a multiple of kvHeads = ${kvHeads}`, String(heads))
  const headDim = checkHeadDim(call, options.headDim)
  call.axis('Hkv', kvHeads).axis('H*D', heads * headDim)
  const q = call.input('q', options.q, '*T H*D', ACTIVATIONS)
  const [kScaleInv, vScaleInv] = checkCache(call, options)
  call.axis('B+1', call.length('B') + 1)
  const cuSeqlensQ = call.input('cuSeqlensQ', options.cuSeqlensQ, 'B+1', I32)
  const kvLens = call.input('kvLens', options.kvLens, 'B', I32)
  const scale = call.real('scale', options.scale ?? 1 / Math.sqrt(headDim))
  const window = call.whole('window', options.window ?? 0)
  const softcap = call.real('softcap', options.softcap ?? 0, 0)
  const maxQ = call.whole('maxSeqlenQ', options.maxSeqlenQ ?? call.length('T'))
  const maxKv = call.whole('maxSeqlenKv', options.maxSeqlenKv ?? call.length('blocks') * call.length('pageSize'))
  const out = call.output('out', options.out, '*T H*D', q.shape, prefer(q.dtype, ACTIVATIONS))
  call.run(
    [q, options.kCache, options.vCache, options.pageTable, cuSeqlensQ, kvLens, out, kScaleInv, vScaleInv],
    [heads, kvHeads, headDim, scale, options.causal ?? true, window, softcap, maxQ, maxKv],
  )
  return out
}
