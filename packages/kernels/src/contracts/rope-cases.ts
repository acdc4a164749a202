/** What the contracts of rope, kvAppend and ropeKvAppend share: the rotation in float64 and a paged cache on the host. */
import { FORMATS, U, host, ints, roundTo, values, type HostTensor, type Random, type Values } from './host.js'
import { rmsRow } from './norm-cases.js'

export const HEAD_DIMS = [2, 4, 6, 16, 30, 32, 34, 64, 80, 128, 256] as const
export const NORMS = ['none', 'plain', 'gemma', 'llama'] as const
export const EPS = 1e-6

/** Tables of cosines and sines for P positions; wavelengths as RoPE has them. */
export function angles(P: number, d: number): { cos: HostTensor; sin: HostTensor } {
  const angle = (i: number): number => Math.floor(i / (d / 2)) * 10000 ** (-(2 * (i % (d / 2))) / d)
  return { cos: host('f32', [P, d / 2], (i) => Math.cos(angle(i))), sin: host('f32', [P, d / 2], (i) => Math.sin(angle(i))) }
}

export interface RotatedRow {
  readonly values: Float64Array
  readonly error: Float64Array
}

export interface RotateOptions {
  readonly norm: (typeof NORMS)[number]
  readonly weight: Float64Array | null
  readonly dtype: 'f32' | 'bf16'
  readonly cos: HostTensor
  readonly sin: HostTensor
  readonly interleaved: boolean
}

/**
 * One head turned by the angles of a position: (a c - b s, b c + a s). Each product and the difference add a unit of the
 * magnitudes |a c| + |b s|; errors of the norm before it come through the same two products.
 */
export function rotateRow(x: Float64Array, position: number, o: RotateOptions): RotatedRow {
  const d = x.length
  const half = d / 2
  const normed = o.weight === null ? { values: x, error: new Float64Array(d) } : rmsRow(x, o.weight, EPS, o.norm === 'gemma', o.norm === 'llama' ? o.dtype : null)
  const out = new Float64Array(d)
  const error = new Float64Array(d)
  for (let i = 0; i < half; i++) {
    const [p, q] = o.interleaved ? [2 * i, 2 * i + 1] : [i, i + half]
    const c = o.cos.values[position * half + i]!
    const s = o.sin.values[position * half + i]!
    const [a, b] = [normed.values[p]!, normed.values[q]!]
    const [ea, eb] = [normed.error[p]!, normed.error[q]!]
    out[p] = a * c - b * s
    out[q] = b * c + a * s
    error[p] = 2 * U * (Math.abs(a * c) + Math.abs(b * s)) + ea * Math.abs(c) + eb * Math.abs(s) + 4 * FORMATS.f32.tiny
    error[q] = 2 * U * (Math.abs(b * c) + Math.abs(a * s)) + eb * Math.abs(c) + ea * Math.abs(s) + 4 * FORMATS.f32.tiny
    for (const k of [p, q]) if (!Number.isFinite(error[k]!)) error[k] = 0
  }
  return { values: out, error }
}

/** A cache with pages in random order; pages that no sequence has stay as they are. */
export interface HostCache {
  readonly k: HostTensor
  readonly v: HostTensor
  readonly pageTable: HostTensor
  readonly pageSize: number
  readonly kvHeads: number
  readonly d: number
}

export interface CacheAxes {
  readonly dtype: 'f32' | 'bf16' | 'e4m3'
  readonly kvHeads: number
  readonly d: number
  readonly pageSize: number
  /** Capacity of every sequence in tokens, rounded up to pages. */
  readonly tokens: number
  readonly batch: number
  readonly values?: Values
}

export function paged(random: Random, { dtype, kvHeads, d, pageSize, tokens, batch, values: kind = 'normal' }: CacheAxes): HostCache {
  const perSequence = Math.max(1, Math.ceil(tokens / pageSize))
  const pages = perSequence * batch + 1
  const shape = [pages, kvHeads, pageSize, d]
  const order = random.permutation(pages)
  return {
    k: values(random, dtype, shape, kind),
    v: values(random, dtype, shape, kind),
    pageTable: ints(order.slice(0, perSequence * batch), [batch, perSequence]),
    pageSize,
    kvHeads,
    d,
  }
}

/** First element of [page, head, slot] that holds `position` of sequence `row`. */
export function cacheOffset(cache: HostCache, row: number, position: number, head: number): number {
  const columns = cache.pageTable.shape[1]!
  const page = cache.pageTable.values[row * columns + Math.floor(position / cache.pageSize)]!
  return ((page * cache.kvHeads + head) * cache.pageSize + (position % cache.pageSize)) * cache.d
}

/** What the cache stores for x: round(float32(x * (1 / scaleInv))). */
export function storedValue(x: number, dtype: HostTensor['dtype'], scaleInv: number | null): number {
  return roundTo(dtype, scaleInv === null ? x : Math.fround(x * Math.fround(1 / scaleInv)))
}
