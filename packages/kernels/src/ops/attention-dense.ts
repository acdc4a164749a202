import { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, I32, prefer, type OpOptions } from './call.js'
import { checkHeadDim } from './rope.js'

const CAUSAL_CODES = { none: 0, topLeft: 1, bottomRight: 2 } as const

export interface AttentionDenseOptions extends OpOptions {
  /** [Tq, H*D], f32 or bf16. */
  readonly q: Tensor
  /** [Tk, Hkv*D], f32 or bf16. */
  readonly k: Tensor
  /** [Tk, Hkv*D], f32 or bf16. */
  readonly v: Tensor
  /** [B], i32: first row of each sequence in q. */
  readonly startsQ: Tensor
  /** [B], i32: its rows in q. */
  readonly lensQ: Tensor
  /** [B], i32: first row of each sequence in k and v. */
  readonly startsKv: Tensor
  /** [B], i32: its rows in k and v. */
  readonly lensKv: Tensor
  /** [B or 1, Sq, Sk], u8: 1 hides a key from a query. */
  readonly mask?: Tensor
  /** H, a multiple of Hkv. */
  readonly heads: number
  /** Hkv. */
  readonly kvHeads: number
  /** D, even, at most 256. */
  readonly headDim: number
  /** Multiplies q · k. Default 1 / sqrt(D). */
  readonly scale?: number
  /** `topLeft` aligns query 0 with key 0, `bottomRight` the last with the last. Default `none`. */
  readonly causal?: keyof typeof CAUSAL_CODES
  /** Keys this far before the query's diagonal at most; -1 (default): no bound. */
  readonly windowLeft?: number
  /** Keys this far after it at most; -1 (default): no bound. */
  readonly windowRight?: number
  /** Scores become tanh(s / softcap) * softcap. Default 0: none. */
  readonly softcap?: number
  /** [Tq, H*D]. Default: a new tensor of q's dtype. */
  readonly out?: Tensor
}

/**
 * Attention without a cache over packed or padded sequences: softmax(q kᵀ scale + mask) v per head. Rows outside every
 * sequence and rows with all keys hidden become 0.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function attentionDense(options: AttentionDenseOptions): Tensor {
  const call = new Call('attentionDense', options)
  const heads = call.whole('heads', options.heads, 1)
  const kvHeads = call.whole('kvHeads', options.kvHeads, 1)
  if (heads % kvHeads !== 0) call.fail('heads', `a multiple of kvHeads = ${kvHeads}`, String(heads))
  const headDim = checkHeadDim(call, options.headDim)
  call.axis('H*D', heads * headDim).axis('Hkv*D', kvHeads * headDim)
  const q = call.input('q', options.q, '*Tq H*D', ACTIVATIONS)
  const k = call.input('k', options.k, '*Tk Hkv*D', ACTIVATIONS)
  const v = call.input('v', options.v, '*Tk Hkv*D', ACTIVATIONS)
  const startsQ = call.input('startsQ', options.startsQ, 'B', I32)
  const lensQ = call.input('lensQ', options.lensQ, 'B', I32)
  const startsKv = call.input('startsKv', options.startsKv, 'B', I32)
  const lensKv = call.input('lensKv', options.lensKv, 'B', I32)
  const shared = options.mask instanceof Tensor && options.mask.shape[0] === 1
  const mask = options.mask === undefined ? null : call.contiguous('mask', options.mask, shared ? '1 Sq Sk' : 'B Sq Sk', ['u8'])
  const attrs = [
    heads,
    kvHeads,
    headDim,
    call.real('scale', options.scale ?? 1 / Math.sqrt(headDim)),
    call.choose('causal', options.causal ?? 'none', CAUSAL_CODES),
    call.whole('windowLeft', options.windowLeft ?? -1, -1),
    call.whole('windowRight', options.windowRight ?? -1, -1),
    call.real('softcap', options.softcap ?? 0, 0),
  ]
  const out = call.output('out', options.out, '*Tq H*D', q.shape, prefer(q.dtype, ACTIVATIONS))
  call.run([q, k, v, startsQ, lensQ, startsKv, lensKv, mask, out], attrs)
  return out
}
