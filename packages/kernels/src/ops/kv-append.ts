import type { TensorDType } from '../dtype-codes.js'
import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, F32, I32, type OpOptions } from './call.js'
import { checkHeadDim } from './rope.js'

const CACHE_DTYPES: readonly TensorDType[] = ['f32', 'bf16', 'e4m3']

/** A paged cache of keys and values; a non-paged one has an affine page table. */
export interface KvCacheTensors {
  /** [pages, Hkv, pageSize, D]; f32, bf16 or e4m3. */
  readonly kCache: Tensor
  /** As kCache. */
  readonly vCache: Tensor
  /** [B, blocks], i32: page of each block of pageSize positions of each sequence. */
  readonly pageTable: Tensor
  /** [Hkv], f32: value = stored * kScaleInv of its head. Default: 1. */
  readonly kScaleInv?: Tensor
  /** [Hkv], f32. Default: 1. */
  readonly vScaleInv?: Tensor
}

/** Checks the cache against Hkv and D (already bound); returns [kScaleInv, vScaleInv]. */
export function checkCache(call: Call, cache: KvCacheTensors): readonly [Tensor | null, Tensor | null] {
  const k = call.contiguous('kCache', cache.kCache, 'pages Hkv pageSize D', CACHE_DTYPES)
  call.contiguous('vCache', cache.vCache, 'pages Hkv pageSize D', [k.dtype])
  call.input('pageTable', cache.pageTable, 'B blocks', I32)
  return [call.optional('kScaleInv', cache.kScaleInv, 'Hkv', F32), call.optional('vScaleInv', cache.vScaleInv, 'Hkv', F32)]
}

export interface KvAppendOptions extends OpOptions, KvCacheTensors {
  /** [T, Hkv*D], f32 or bf16. */
  readonly k: Tensor
  /** [T, Hkv*D], f32 or bf16. */
  readonly v: Tensor
  /** [T], i32: row of `pageTable` that the token belongs to. */
  readonly rowOf: Tensor
  /** [T], i32: position in its sequence; negative skips the token. */
  readonly positions: Tensor
  /** Hkv. */
  readonly kvHeads: number
  /** D, even, at most 256. */
  readonly headDim: number
}

/**
 * Stores T tokens of keys and values: kCache[page, h, slot, :] = round(k[t, h, :] / kScaleInv[h]) with
 * page = pageTable[rowOf[t], floor(p / pageSize)], slot = p mod pageSize, p = positions[t]; FP8 saturates. A place
 * outside the cache is found on the device: the next sync rejects with `OP_FAILED`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function kvAppend(options: KvAppendOptions): void {
  const call = new Call('kvAppend', options)
  const kvHeads = call.whole('kvHeads', options.kvHeads, 1)
  const headDim = checkHeadDim(call, options.headDim)
  call.axis('Hkv', kvHeads).axis('Hkv*D', kvHeads * headDim)
  const k = call.input('k', options.k, '*T Hkv*D', ACTIVATIONS)
  const v = call.input('v', options.v, '*T Hkv*D', ACTIVATIONS)
  const [kScaleInv, vScaleInv] = checkCache(call, options)
  const rowOf = call.input('rowOf', options.rowOf, 'T', I32)
  const positions = call.input('positions', options.positions, 'T', I32)
  call.run([k, v, options.kCache, options.vCache, options.pageTable, rowOf, positions, kScaleInv, vScaleInv], [kvHeads, headDim])
}
