import type { Recipe } from '@octet-llm/fp8-recipe'
import { cast, Construction, copy, dequantize, disposeAll, keep, quantize, scope, Tensor, type Device } from '@octet-llm/kernels'
import type { KvLayerScales } from '@octet-llm/kv-cache'

import type { QuantizeRule } from '../quantized-storage.js'
import type { Workspace } from '../workspace.js'
import { ruleOf } from './recipe-state.js'

/** Packed q [T, H * D], k and v [T, Hkv * D]. */
export interface AttentionInputs {
  readonly q: Tensor
  readonly k: Tensor
  readonly v: Tensor
}

/** Inputs in buffers of a workspace, and the views to dispose once they are read. */
export interface QuantizedInputs extends AttentionInputs {
  readonly views: readonly Tensor[]
}

/**
 * Attention's inputs in FP8 at inference (a recipe's `fp8Dpa`): every value becomes the one that its e4m3 code holds, rounded
 * to the input's dtype, and attention computes on those as ever. Queries are scaled by token and head from their own values, keys
 * and values by head as an FP8 cache stores them, so that nothing depends on batch-mates or later tokens.
 */
export class Fp8AttentionInputs {
  readonly #headDim: number
  readonly #queryRule: QuantizeRule
  #scales: { readonly k: HeadScales; readonly v: HeadScales } | undefined

  constructor(headDim: number, recipe: Recipe | undefined) {
    this.#headDim = headDim
    this.#queryRule = { ...(recipe?.kind === 'current' ? ruleOf(recipe, 'input') : {}), granularity: 'row' }
  }

  /** The scales of keys and values, calibrated: those of the FP8 cache. Undefined: 1. */
  setKvScales(scales: KvLayerScales | undefined, device: Device): void {
    this.dispose()
    if (scales === undefined) return
    using construction = new Construction()
    this.#scales = { k: new HeadScales(scales.k, device), v: new HeadScales(scales.v, device) }
    construction.complete()
  }

  /** @param q [T, H * D] @returns a view of the workspace's values, the caller's to dispose */
  query(q: Tensor, workspace: Workspace): Tensor {
    return scope(() => {
      const rows = (q.shape[0]! * q.shape[1]!) / this.#headDim
      const flat = workspace.get('dpa.q', [rows, this.#headDim], q.dtype)
      const view = flat.view(q.shape)
      copy({ x: q, out: view })
      const codes = quantize({
        x: flat,
        ...this.#queryRule,
        data: workspace.get('dpa.q.codes', flat.shape, 'e4m3'),
        scaleInv: workspace.get('dpa.q.scaleInv', [rows], 'f32'),
      })
      dequantize({ x: codes, out: flat })
      return view
    })
  }

  /** All three, where no cache holds keys and values. */
  inputs({ q, k, v }: AttentionInputs, workspace: Workspace): QuantizedInputs {
    return scope(() => {
      const query = this.query(q, workspace)
      return { q: query, k: this.#byHead(k, 'k', workspace), v: this.#byHead(v, 'v', workspace), views: [query] }
    })
  }

  dispose(): void {
    disposeAll([this.#scales?.k, this.#scales?.v])
    this.#scales = undefined
  }

  #byHead(x: Tensor, part: 'k' | 'v', workspace: Workspace): Tensor {
    const codes = workspace.get(`dpa.${part}.codes`, x.shape, 'e4m3')
    const out = workspace.get(`dpa.${part}`, x.shape, x.dtype)
    const scales = this.#scales?.[part]
    if (scales === undefined) return cast({ x: cast({ x, out: codes }), out })
    // The op gives the inverse of the multiplier; the cache de-quantizes by the calibrated scale itself.
    const unused = workspace.get('dpa.unused', [1], 'f32')
    for (const [head, { multiplier, scaleInv }] of scales.heads.entries()) {
      const columns = [x, codes, out].map((t) => t.columns(head * this.#headDim, (head + 1) * this.#headDim)) as [Tensor, Tensor, Tensor]
      quantize({ x: columns[0], granularity: 'tensor', scale: multiplier, data: columns[1], scaleInv: unused })
      dequantize({ x: { data: columns[1], scaleInv, granularity: 'tensor' }, out: columns[2] })
      for (const t of columns) t.dispose()
    }
    return out
  }
}

/** Scales of a layer's heads on the device, f32 [1] each: value = code * scaleInv, code = value * multiplier. */
class HeadScales {
  readonly heads: readonly { readonly multiplier: Tensor; readonly scaleInv: Tensor }[]

  constructor(scales: Float32Array, device: Device) {
    const one = (value: number) => keep(Tensor.from(Float32Array.of(value), { shape: [1], dtype: 'f32', device }))
    this.heads = Array.from(scales, (scale) => ({ multiplier: one(1 / scale), scaleInv: one(scale) }))
  }

  dispose(): void {
    disposeAll(this.heads.flatMap(({ multiplier, scaleInv }) => [multiplier, scaleInv]))
  }
}

/**
 * Attention's inputs by the recipe's own rule, for an autocast with `fp8Dpa`: one scale for queries, keys and values together,
 * from their largest magnitude, as TransformerEngine quantizes them.
 */
export function quantizeTogether({ q, k, v }: AttentionInputs, recipe: Recipe, workspace: Workspace): QuantizedInputs {
  return scope(() => {
    const widths = [q, k, v].map((t) => t.shape[1]!)
    const shape = [q.shape[0]!, widths.reduce((a, b) => a + b, 0)]
    const all = workspace.get('dpa.qkv', shape, q.dtype)
    let begin = 0
    const views = [q, k, v].map((x) => {
      const out = all.columns(begin, (begin += x.shape[1]!))
      copy({ x, out })
      return out
    }) as [Tensor, Tensor, Tensor]
    const codes = quantize({
      x: all,
      ...ruleOf(recipe, 'input'),
      data: workspace.get('dpa.qkv.codes', shape, 'e4m3'),
      scaleInv: workspace.get('dpa.qkv.scaleInv', [1], 'f32'),
    })
    dequantize({ x: codes, out: all })
    return { q: views[0], k: views[1], v: views[2], views }
  })
}
