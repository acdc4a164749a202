import { OctetError } from '@octet-llm/core'
import { attention, attentionDense, disposeAll, kvAppend, type Device, type Tensor } from '@octet-llm/kernels'
import type { InferenceParams, KvLayerScales, QkvFormat } from '@octet-llm/kv-cache'

import type { ForwardContext, LayerContext } from './context.js'
import { Fp8AttentionInputs, quantizeTogether, type AttentionInputs, type QuantizedInputs } from './fp8/attention-inputs.js'
import { AutocastContext } from './fp8/autocast.js'
import type { Fp8Context } from './fp8/context.js'
import type { Fp8Inference } from './fp8/inference.js'
import { withTokens } from './layout.js'
import { cachedMask, causalAlignment, checkMaskType, checkWindow, type AttnMaskType, type WindowSize } from './mask.js'
import { checkSizes } from './module.js'

export interface DotProductAttentionOptions {
  /** H */
  readonly numAttentionHeads: number
  /** D, even, ≤ 256. */
  readonly kvChannels: number
  /** Hkv; divides H. Query heads j·g … j·g+g-1 read KV head j. Default H. */
  readonly numGqaGroups?: number
  /** Must be 0: there is no dropout at inference. Default 0. */
  readonly attentionDropout?: number
  /** Default 'causal'. */
  readonly attnMaskType?: AttnMaskType
  /** Default [-1, -1]: no limit. */
  readonly windowSize?: WindowSize
  /** Default 1 / √D. */
  readonly softmaxScale?: number
  /** tanh(s / cap) * cap on the scaled scores (Gemma 2). Default: none. */
  readonly attnLogitSoftcapping?: number
  /** Default 'bshd'. */
  readonly qkvFormat?: QkvFormat
  /** 1-based: which layer of the KV cache. Default 1. */
  readonly layerNumber?: number
  /** `dpa` quantizes queries, keys and values. Default: not. */
  readonly fp8?: Fp8Inference | undefined
}

/** softmax(mask(cap(q · kᵀ * scale))) · v, softmax in float32. */
export class DotProductAttention {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly maskType: AttnMaskType
  readonly windowSize: WindowSize
  readonly scale: number
  readonly softcap: number
  readonly qkvFormat: QkvFormat
  readonly layerNumber: number
  readonly #inputs: Fp8AttentionInputs | undefined

  /** @throws OctetError `INVALID_ARGUMENT` */
  constructor(options: DotProductAttentionOptions) {
    const op = 'DotProductAttention'
    this.heads = options.numAttentionHeads
    this.kvHeads = options.numGqaGroups ?? options.numAttentionHeads
    this.headDim = options.kvChannels
    this.maskType = options.attnMaskType ?? 'causal'
    this.windowSize = options.windowSize ?? [-1, -1]
    this.scale = options.softmaxScale ?? 1 / Math.sqrt(options.kvChannels)
    this.softcap = options.attnLogitSoftcapping ?? 0
    this.qkvFormat = options.qkvFormat ?? 'bshd'
    this.layerNumber = options.layerNumber ?? 1
    checkSizes(op, { numAttentionHeads: this.heads, numGqaGroups: this.kvHeads, kvChannels: this.headDim, layerNumber: this.layerNumber })
    if (this.headDim % 2 !== 0 || this.headDim > 256) {
      throw new OctetError('INVALID_ARGUMENT', { op, argument: 'kvChannels', expected: 'an even number up to 256', received: String(this.headDim) })
    }
    checkMaskType(op, this.maskType)
    checkWindow(op, this.windowSize)
    checkDropout(op, 'attentionDropout', options.attentionDropout)
    if (this.heads % this.kvHeads !== 0) {
      throw new OctetError('INVALID_ARGUMENT', { op, argument: 'numGqaGroups', expected: `a divisor of ${this.heads} heads`, received: String(this.kvHeads) })
    }
    this.#inputs = options.fp8?.dpa === true ? new Fp8AttentionInputs(this.headDim, options.fp8.recipe) : undefined
  }

  /** Whether queries, keys and values are quantized. */
  get fp8Dpa(): boolean {
    return this.#inputs !== undefined
  }

  /** Scales of keys and values by head where they are quantized without a cache; those of the FP8 cache. Undefined: 1. */
  setKvScales(scales: KvLayerScales | undefined, device: Device): void {
    this.#inputs?.setKvScales(scales, device)
  }

  dispose(): void {
    this.#inputs?.dispose()
  }

  /**
   * @param q `bshd` [B, S, H * D], `sbhd` [S, B, H * D] or `thd` [T, H * D]
   * @param k the same with Hkv heads; with a cache the step's new tokens, which are appended first
   * @param v as k
   * @returns q's shape
   * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, `NOT_SUPPORTED`
   */
  forward(q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext = {}): Tensor {
    const maskType = ctx.selfAttnMaskType ?? this.maskType
    return withTokens('DotProductAttention', [q, k, v], this.qkvFormat, maskType, ctx, (tokens, c) => {
      const [q2, k2, v2] = tokens as [Tensor, Tensor, Tensor]
      if (c.inferenceParams === undefined) return this.attend(q2, k2, v2, c)
      this.append(k2, v2, c.inferenceParams)
      return this.attendCached(q2, c)
    })
  }

  /** Packed k, v [T, Hkv * D] into this layer's cache. */
  append(k: Tensor, v: Tensor, params: InferenceParams): void {
    const cache = params.layerCache(this.layerNumber)
    const { pageTable, rowOf, positions } = params.active
    kvAppend({
      k,
      v,
      kCache: cache.k,
      vCache: cache.v,
      pageTable,
      rowOf,
      positions,
      kScaleInv: cache.kScaleInv,
      vScaleInv: cache.vScaleInv,
      kvHeads: this.kvHeads,
      headDim: this.headDim,
    })
  }

  /** Packed q [T, H * D] over everything the cache holds, this step's tokens included. */
  attendCached(q: Tensor, ctx: LayerContext, out?: Tensor): Tensor {
    const params = ctx.inferenceParams!
    const cache = params.layerCache(this.layerNumber)
    const { pageTable, cuSeqlensQ, kvLens } = params.active
    const { causal, window } = cachedMask(ctx.selfAttnMaskType ?? this.maskType, ctx.windowSize ?? this.windowSize)
    const quantizer = this.#cachedQuantizer(ctx.fp8)
    if (quantizer !== undefined && cache.kScaleInv === undefined) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'DotProductAttention', argument: 'inferenceParams', expected: 'an e4m3 cache, as fp8Dpa wants keys and values in FP8', received: params.dtype })
    }
    const query = quantizer?.query(q, ctx.workspace)
    try {
      return attention({
        q: query ?? q,
        kCache: cache.k,
        vCache: cache.v,
        pageTable,
        cuSeqlensQ,
        kvLens,
        kScaleInv: cache.kScaleInv,
        vScaleInv: cache.vScaleInv,
        heads: this.heads,
        kvHeads: this.kvHeads,
        headDim: this.headDim,
        scale: this.scale,
        causal,
        window,
        softcap: this.softcap,
        maxSeqlenQ: params.maxSeqlenQ,
        maxSeqlenKv: params.maxSeqlenKv,
        out,
      })
    } finally {
      query?.dispose()
    }
  }

  /** Packed q [T, H * D], k and v [T, Hkv * D] over each other, sequence by sequence. */
  attend(q: Tensor, k: Tensor, v: Tensor, ctx: LayerContext, out?: Tensor): Tensor {
    const { starts, lens, mask } = ctx.ranges!
    const [windowLeft, windowRight] = ctx.windowSize ?? this.windowSize
    const quantized = this.#quantizedInputs({ q, k, v }, ctx)
    try {
      return attentionDense({
        q: quantized?.q ?? q,
        k: quantized?.k ?? k,
        v: quantized?.v ?? v,
        startsQ: starts,
        lensQ: lens,
        startsKv: starts,
        lensKv: lens,
        mask,
        heads: this.heads,
        kvHeads: this.kvHeads,
        headDim: this.headDim,
        scale: this.scale,
        causal: causalAlignment(ctx.selfAttnMaskType ?? this.maskType),
        windowLeft,
        windowRight,
        softcap: this.softcap,
        out,
      })
    } finally {
      disposeAll(quantized?.views ?? [])
    }
  }

  /** Without a cache an autocast follows its recipe's own rule, and anything else the inference rules. */
  #quantizedInputs(inputs: AttentionInputs, { fp8, workspace }: LayerContext): QuantizedInputs | undefined {
    if (fp8?.enabled === false) return undefined
    if (isAutocast(fp8)) return fp8.recipe.fp8Dpa ? quantizeTogether(inputs, fp8.recipe, workspace) : undefined
    return this.#inputs?.inputs(inputs, workspace)
  }

  /** A cache has its tokens for good: they are quantized by the inference rules, also within an autocast. */
  #cachedQuantizer(fp8: Fp8Context | undefined): Fp8AttentionInputs | undefined {
    if (fp8?.enabled === false) return undefined
    if (!isAutocast(fp8)) return this.#inputs
    return fp8.recipe.fp8Dpa ? (this.#inputs ?? new Fp8AttentionInputs(this.headDim, fp8.recipe)) : undefined
  }
}

function isAutocast(fp8: Fp8Context | undefined): fp8 is AutocastContext {
  return fp8 instanceof AutocastContext && fp8.enabled && !fp8.calibrating
}

/** @throws OctetError `INVALID_ARGUMENT` for anything but 0 */
export function checkDropout(op: string, argument: string, value: number | undefined): void {
  if (value === undefined || value === 0) return
  throw new OctetError('INVALID_ARGUMENT', { op, argument, expected: '0, as there is no dropout at inference', received: String(value) })
}
