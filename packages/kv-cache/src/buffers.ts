import { itemSize, OctetError } from '@octet-llm/core'
import { disposeAll, gatherRows, scatterRows, scope, Tensor, type Device } from '@octet-llm/kernels'

import type { PageCopy } from './pages.js'

/** How keys and values are stored. `e4m3` divides by a per-head scale (kScaleInv, vScaleInv) before the cast. */
export type KvDType = 'f32' | 'bf16' | 'e4m3'

/** Keys and values of one layer, as the kernels take them. */
export interface LayerCache {
  /** [pages, Hkv, pageSize, D] */
  readonly k: Tensor
  /** [pages, Hkv, pageSize, D] */
  readonly v: Tensor
  /** f32 [Hkv], FP8 storage only: value = stored * scaleInv. */
  readonly kScaleInv?: Tensor
  readonly vScaleInv?: Tensor
}

/** Scales of a layer's FP8 keys and values, one a head: value = stored * scale. */
export interface KvLayerScales {
  /** [Hkv] */
  readonly k: Float32Array
  /** [Hkv] */
  readonly v: Float32Array
}

export interface CacheShape {
  readonly layers: number
  readonly pages: number
  readonly heads: number
  readonly pageSize: number
  readonly headDim: number
}

/**
 * Pages of all layers: one allocation for keys, one for values. A page of any layer is a row of
 * [layers * pages, Hkv * pageSize * D], so one gather and one scatter copy pages in every layer at once.
 */
export class CacheBuffers {
  readonly byteLength: number
  readonly #shape: CacheShape
  readonly #device: Device
  readonly #k: Tensor
  readonly #v: Tensor
  readonly #scales: Tensor | undefined
  readonly #layers: LayerCache[]
  readonly #views: Tensor[] = []

  /** @param scales of each layer, e4m3 only; default 1. @throws OctetError `OUT_OF_MEMORY` with the bytes of the whole cache */
  constructor(device: Device, dtype: KvDType, shape: CacheShape, scales?: readonly KvLayerScales[]) {
    const { layers, pages, heads, pageSize, headDim } = shape
    const rows = [layers * pages, heads * pageSize * headDim] as const
    device.checkRoom(2 * rows[0] * rows[1] * itemSize(dtype), {
      op: 'InferenceParams', purpose: `a cache of ${pages * pageSize} tokens in ${layers} layers`, hint: 'cache fewer or shorter sequences at once, in FP8, or in fewer pages (totalNumPages)',
    })
    this.#device = device
    this.#shape = shape
    this.#k = Tensor.empty(rows, { dtype, device })
    this.#v = Tensor.empty(rows, { dtype, device })
    if (dtype === 'e4m3') {
      const values = new Float32Array(2 * layers * heads).fill(1)
      for (const [layer, { k, v }] of (scales ?? []).entries()) {
        values.set(k, 2 * layer * heads)
        values.set(v, (2 * layer + 1) * heads)
      }
      this.#scales = Tensor.from(values, { shape: [2 * layers, heads], dtype: 'f32', device })
    }
    this.#layers = Array.from({ length: layers }, (_, layer) => ({
      k: this.#view(this.#k, layer * pages, pages, [pages, heads, pageSize, headDim]),
      v: this.#view(this.#v, layer * pages, pages, [pages, heads, pageSize, headDim]),
      ...(this.#scales === undefined
        ? {}
        : {
            kScaleInv: this.#view(this.#scales, 2 * layer, 1, [heads]),
            vScaleInv: this.#view(this.#scales, 2 * layer + 1, 1, [heads]),
          }),
    }))
    this.byteLength = this.#k.byteLength + this.#v.byteLength + (this.#scales?.byteLength ?? 0)
  }

  /** @param layer 1-based, as TransformerEngine counts. @throws OctetError `INVALID_ARGUMENT` */
  layer(layer: number): LayerCache {
    const cache = this.#layers[layer - 1]
    if (cache === undefined) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'InferenceParams', argument: 'layer', expected: `1 to ${this.#layers.length}`, received: String(layer) })
    }
    return cache
  }

  /** Copies whole pages in all layers, all reads before all writes. */
  copyPages(copies: readonly PageCopy[]): void {
    if (copies.length === 0) return
    const { layers, pages } = this.#shape
    const ids = (key: keyof PageCopy) => {
      const rows = Array.from({ length: layers }, (_, layer) => copies.map((copy) => layer * pages + copy[key])).flat()
      return Tensor.from(Int32Array.from(rows), { shape: [rows.length], dtype: 'i32', device: this.#device })
    }
    scope(() => {
      const [from, to] = [ids('from'), ids('to')]
      for (const buffer of [this.#k, this.#v]) {
        const moved = gatherRows({ x: buffer, rows: from })
        scatterRows({ x: moved, rows: to, out: buffer })
        moved.dispose()
      }
    })
  }

  dispose(): void {
    disposeAll([...this.#views, this.#k, this.#v, this.#scales])
  }

  #view(buffer: Tensor, begin: number, count: number, shape: readonly number[]): Tensor {
    const rows = buffer.rows(begin, begin + count)
    const view = rows.view(shape)
    this.#views.push(rows, view)
    return view
  }
}
