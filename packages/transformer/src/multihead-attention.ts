import { OctetError } from '@octet-llm/core'
import { Construction, copy, disposeAll, rope, ropeKvAppend, type Tensor } from '@octet-llm/kernels'
import type { InferenceParams, QkvFormat } from '@octet-llm/kv-cache'

import type { ForwardContext, LayerContext, RunOptions } from './context.js'
import { DotProductAttention } from './dot-product-attention.js'
import { withTokens } from './layout.js'
import { LayerNormLinear } from './layer-norm-linear.js'
import { Linear } from './linear.js'
import type { AttnMaskType, WindowSize } from './mask.js'
import { checkSizes, prefixed, weightStream, type Module, type ModuleOptions, type StateEntry } from './module.js'
import { RMSNorm, type Normalization } from './norm.js'
import { QkNorm, type QkNormType } from './qk-norm.js'
import type { RopeTables } from './rotary-position-embedding.js'
import { interleavedQkvRows } from './te-state.js'
import type { Weight } from './weight.js'
import type { Workspace } from './workspace.js'

export interface MultiheadAttentionOptions extends ModuleOptions {
  readonly hiddenSize: number
  /** H */
  readonly numAttentionHeads: number
  /** D. Default hiddenSize / H. */
  readonly kvChannels?: number
  /** Hkv; divides H. Default H. */
  readonly numGqaGroups?: number
  /** Must be 0. Default 0. */
  readonly attentionDropout?: number
  /** Default 'causal'. */
  readonly attnMaskType?: AttnMaskType
  /** Default [-1, -1]: no limit. */
  readonly windowSize?: WindowSize
  /** Default 1 / √D. */
  readonly softmaxScale?: number
  /** Default: none. */
  readonly attnLogitSoftcapping?: number
  /** Default 'bshd'. */
  readonly qkvFormat?: QkvFormat
  /** Biases of q, k, v. Default true. */
  readonly bias?: boolean
  /** Bias of the output projection. Default `bias`. */
  readonly projBias?: boolean
  /** false names the state query_weight, key_weight, value_weight; storage is one weight either way. Default false. */
  readonly fuseQkvParams?: boolean
  /** Fused state has its rows interleaved by KV group. Default true, as TransformerEngine. */
  readonly qkvWeightInterleaved?: boolean
  /** Normalises the input first. Default false. */
  readonly inputLayernorm?: boolean
  readonly normalization?: Normalization
  /** Default 1e-5. */
  readonly layernormEpsilon?: number
  readonly zeroCenteredGamma?: boolean
  readonly castBeforeWeight?: boolean
  /** Default: none. */
  readonly qkNormType?: QkNormType
  /** Default 1e-6. */
  readonly qkNormEps?: number
  /** true normalises q and k before they are rotated (Gemma 3). Default false, as TransformerEngine. */
  readonly qkNormBeforeRope?: boolean
  /** Rotates pairs (2i, 2i + 1) instead of (i, i + D/2). Default false. */
  readonly rotaryPosInterleaved?: boolean
  /** 1-based. Default 1. */
  readonly layerNumber?: number
}

/** proj(attention(rope(q), rope(k), v)) of one fused Q|K|V projection; with a cache, RoPE and the append are one op. */
export class MultiheadAttention implements Module {
  readonly layernormQkv: LayerNormLinear | undefined
  readonly qkv: Linear
  readonly core: DotProductAttention
  readonly proj: Linear
  readonly qNorm: QkNorm | undefined
  readonly kNorm: QkNorm | undefined
  readonly qkNormBeforeRope: boolean
  readonly interleavedRope: boolean
  readonly #stateRows: Int32Array | undefined

  /** @throws OctetError `INVALID_ARGUMENT` */
  constructor(options: MultiheadAttentionOptions) {
    const { hiddenSize, numAttentionHeads: heads, layerNumber = 1 } = options
    checkSizes('MultiheadAttention', { hiddenSize, numAttentionHeads: heads })
    const headDim = options.kvChannels ?? hiddenSize / heads
    if (!Number.isInteger(headDim)) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'MultiheadAttention', argument: 'hiddenSize', expected: `a multiple of ${heads} heads, or kvChannels`, received: String(hiddenSize) })
    }
    this.core = new DotProductAttention({ ...options, kvChannels: headDim })
    const kvHeads = this.core.kvHeads
    const segments = [
      { name: 'query', rows: heads * headDim },
      { name: 'key', rows: kvHeads * headDim },
      { name: 'value', rows: kvHeads * headDim },
    ]
    const projection = {
      ...options,
      eps: options.layernormEpsilon,
      inFeatures: hiddenSize,
      outFeatures: (heads + 2 * kvHeads) * headDim,
      parametersSplit: segments,
      streams: [0, 1, 2].map((i) => weightStream(layerNumber, i)),
    }
    using construction = new Construction()
    this.layernormQkv = options.inputLayernorm === true ? new LayerNormLinear(projection) : undefined
    this.qkv = this.layernormQkv?.linear ?? new Linear(projection)
    this.proj = new Linear({
      ...options,
      inFeatures: heads * headDim,
      outFeatures: hiddenSize,
      bias: options.projBias ?? options.bias,
      streams: [weightStream(layerNumber, 3)],
    })
    this.qkNormBeforeRope = options.qkNormBeforeRope ?? false
    this.interleavedRope = options.rotaryPosInterleaved ?? false
    if (options.qkNormType !== undefined) {
      const norm = { ...options, normalizedShape: headDim, eps: options.qkNormEps ?? 1e-6 }
      this.qNorm = new QkNorm(options.qkNormType, norm)
      this.kNorm = new QkNorm(options.qkNormType, norm)
      if (options.initialize !== false) for (const n of [this.qNorm, this.kNorm]) n.initialize()
    }
    const fused = options.fuseQkvParams ?? false
    const interleaved = fused && (options.qkvWeightInterleaved ?? true)
    this.#stateRows = interleaved ? interleavedQkvRows(heads, kvHeads, headDim) : undefined
    this.#fused = fused
    construction.complete()
  }

  readonly #fused: boolean

  /** @param x in qkvFormat, [..., hidden] @returns as x. @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT` */
  forward(x: Tensor, ctx: ForwardContext = {}): Tensor {
    const maskType = ctx.selfAttnMaskType ?? this.core.maskType
    return withTokens('MultiheadAttention', [x], this.core.qkvFormat, maskType, ctx, ([tokens], c) => this.run(tokens!, c))
  }

  /** @param x packed [T, hidden] */
  run(x: Tensor, ctx: LayerContext, options: RunOptions = {}): Tensor {
    const { workspace, inferenceParams: params } = ctx
    const tokens = x.shape[0]!
    const { heads, headDim } = this.core
    const out = workspace.get('qkv', [tokens, this.qkv.outFeatures], x.dtype)
    const { fp8 } = ctx
    const qkv = this.layernormQkv === undefined ? this.qkv.run(x, { out, workspace, fp8 }) : this.layernormQkv.run(x, workspace, { out, fp8 })
    const mixed = workspace.get('attn', [tokens, heads * headDim], x.dtype)
    // Calibration looks at rotated keys, which the fused op leaves in the cache only.
    if (params !== undefined && ctx.rope !== undefined && this.#fusesRope && fp8?.observer === undefined) {
      const q = workspace.get('q', mixed.shape, x.dtype)
      this.#ropeAppend(qkv, q, ctx.rope, params)
      this.core.attendCached(q, ctx, mixed)
    } else {
      this.#attendSplit(qkv, ctx, mixed)
    }
    return this.proj.run(mixed, { ...options, workspace, fp8 })
  }

  weights(): [string, Weight][] {
    return this.#parts().flatMap(([name, part]) => prefixed(name, part).weights)
  }

  stateEntries(): StateEntry[] {
    const entries = this.#parts().flatMap(([name, part]) => prefixed(name, part).state)
    if (!this.#fused) return entries
    const whole = new Set<Weight | undefined>([this.qkv.weight, this.qkv.bias])
    const name = this.layernormQkv === undefined ? 'qkv' : 'layernorm_qkv'
    const order = this.#stateRows === undefined ? {} : { rowOrder: this.#stateRows }
    const fused = this.qkv.weights().map(([part, weight]) => ({ name: `${name}.${part}`, weight, ...order }))
    const first = entries.findIndex((entry) => whole.has(entry.weight))
    return [...entries.slice(0, first), ...fused, ...entries.slice(first).filter((entry) => !whole.has(entry.weight))]
  }

  dispose(): void {
    disposeAll([this.layernormQkv ?? this.qkv, this.proj, this.qNorm, this.kNorm, this.core])
  }

  #parts(): [string, Module | undefined][] {
    const first: [string, Module] = this.layernormQkv === undefined ? ['qkv', this.qkv] : ['layernorm_qkv', this.layernormQkv]
    return [first, ['q_norm', this.qNorm], ['k_norm', this.kNorm], ['proj', this.proj]]
  }

  /** The one op does RoPE after RMSNorm; every other order of the two takes separate ops. */
  get #fusesRope(): boolean {
    return this.qNorm === undefined || (this.qNorm.type === 'RMSNorm' && this.qkNormBeforeRope)
  }

  #ropeAppend(qkv: Tensor, qOut: Tensor, tables: RopeTables, params: InferenceParams): void {
    const { heads, kvHeads, headDim, layerNumber } = this.core
    const cache = params.layerCache(layerNumber)
    const { pageTable, rowOf, positions: cachePositions } = params.active
    ropeKvAppend({
      qkv,
      positions: tables.positions,
      cos: tables.cos,
      sin: tables.sin,
      qOut,
      kCache: cache.k,
      vCache: cache.v,
      pageTable,
      rowOf,
      cachePositions,
      qNorm: this.qNorm?.norm?.weight.tensor,
      kNorm: this.kNorm?.norm?.weight.tensor,
      kScaleInv: cache.kScaleInv,
      vScaleInv: cache.vScaleInv,
      heads,
      kvHeads,
      headDim,
      interleaved: this.interleavedRope,
      ...this.#normAttributes(),
    })
  }

  #attendSplit(qkv: Tensor, ctx: LayerContext, out: Tensor): void {
    const { heads, kvHeads, headDim } = this.core
    const ends = [heads, heads + kvHeads, heads + 2 * kvHeads].map((n) => n * headDim) as [number, number, number]
    const parts = [qkv.columns(0, ends[0]), qkv.columns(ends[0], ends[1]), qkv.columns(ends[1], ends[2])] as const
    try {
      const q = this.#position(parts[0], 'q', heads, this.qNorm, ctx.rope, ctx.workspace)
      const k = this.#position(parts[1], 'k', kvHeads, this.kNorm, ctx.rope, ctx.workspace)
      ctx.fp8?.observer?.keysAndValues(this.core, k, parts[2])
      if (ctx.inferenceParams === undefined) {
        this.core.attend(q, k, parts[2], ctx, out)
      } else {
        this.core.append(k, parts[2], ctx.inferenceParams)
        this.core.attendCached(q, ctx, out)
      }
    } finally {
      disposeAll(parts)
    }
  }

  /** q or k, normalised and rotated in the order that the options ask for. */
  #position(x: Tensor, name: string, heads: number, norm: QkNorm | undefined, tables: RopeTables | undefined, workspace: Workspace): Tensor {
    if (norm === undefined && tables === undefined) return x
    const { headDim } = this.core
    const out = workspace.get(name, x.shape, x.dtype)
    const rotate = (source: Tensor, normWeight?: Tensor) => {
      if (tables === undefined) return
      rope({ x: source, ...tables, out, normWeight, heads, headDim, interleaved: this.interleavedRope, ...this.#normAttributes() })
    }
    if (norm === undefined) {
      rotate(x)
    } else if (this.#fusesRope && tables !== undefined) {
      rotate(x, norm.norm!.weight.tensor)
    } else if (this.qkNormBeforeRope || tables === undefined) {
      copy({ x, out })
      norm.apply(out)
      rotate(out)
    } else {
      rotate(x)
      norm.apply(out)
    }
    return out
  }

  #normAttributes(): { eps: number; zeroCenteredGamma: boolean; castBeforeWeight: boolean } | undefined {
    const norm = this.qNorm?.norm
    if (!(norm instanceof RMSNorm)) return undefined
    return { eps: norm.eps, zeroCenteredGamma: norm.zeroCenteredGamma, castBeforeWeight: norm.castBeforeWeight }
  }
}
