import { OctetError } from '@octet-llm/core'
import { add, Construction, disposeAll, type Tensor } from '@octet-llm/kernels'
import type { QkvFormat } from '@octet-llm/kv-cache'

import type { ForwardContext, LayerContext, RunOptions } from './context.js'
import { checkDropout } from './dot-product-attention.js'
import { LayerNormMLP, type Activation } from './layer-norm-mlp.js'
import { withTokens } from './layout.js'
import type { Linear } from './linear.js'
import type { AttnMaskType, WindowSize } from './mask.js'
import { checkSizes, prefixed, type Module, type ModuleOptions, type StateEntry } from './module.js'
import { MultiheadAttention } from './multihead-attention.js'
import { makeNorm, type Norm, type Normalization } from './norm.js'
import type { QkNormType } from './qk-norm.js'
import type { Weight } from './weight.js'

/** TransformerEngine's options and defaults in camelCase; what it lacks (Gemma 2 and 3) is marked. */
export interface TransformerLayerOptions extends ModuleOptions {
  readonly hiddenSize: number
  /** I */
  readonly ffnHiddenSize: number
  /** H */
  readonly numAttentionHeads: number
  /** Hkv. Default H. */
  readonly numGqaGroups?: number
  /** D. Default hiddenSize / H. */
  readonly kvChannels?: number
  /** Default 1e-5. */
  readonly layernormEpsilon?: number
  /** Must be 0: layers run without dropout. Default 0 (TransformerEngine: 0.1). */
  readonly hiddenDropout?: number
  /** Must be 0. Default 0 (TransformerEngine: 0.1). */
  readonly attentionDropout?: number
  /** Default 'LayerNorm'. */
  readonly normalization?: Normalization
  /** The stored gammas are gamma - 1 (Gemma). Default false. */
  readonly zeroCenteredGamma?: boolean
  /** RMSNorm rounds before it multiplies by gamma (Llama in bf16). Default false. Not in TransformerEngine. */
  readonly castBeforeWeight?: boolean
  /** Default 'gelu'. */
  readonly activation?: Activation
  /** All biases, or which. Default true. */
  readonly bias?: boolean | { readonly qkv?: boolean; readonly proj?: boolean; readonly mlp?: boolean }
  /** Default 'causal'. */
  readonly selfAttnMaskType?: AttnMaskType
  /** [left, right] tokens that a query sees; a sliding window of W tokens is [W - 1, 0]. Default [-1, -1]: no limit. */
  readonly windowSize?: WindowSize
  /** Default: none. */
  readonly qkNormType?: QkNormType
  /** Default 1e-6. */
  readonly qkNormEps?: number
  /** Default false, as TransformerEngine; true for Gemma 3. */
  readonly qkNormBeforeRope?: boolean
  /** Default 1 / √D. */
  readonly softmaxScale?: number
  /** tanh(s / cap) * cap on attention scores (Gemma 2). Default: none. Not in TransformerEngine. */
  readonly attnLogitSoftcapping?: number
  /** Norms after attention and after the MLP, before their residuals (Gemma 2 and 3). Not in TransformerEngine. */
  readonly postNorms?: boolean
  /** Default 'bshd'. (TransformerEngine: 'sbhd'.) */
  readonly attnInputFormat?: QkvFormat
  /** State has one QKV weight instead of three; storage is one either way. Default false. */
  readonly fuseQkvParams?: boolean
  /** Rows of a fused state are interleaved by KV group. Default true. */
  readonly qkvWeightInterleaved?: boolean
  /** Default false. */
  readonly rotaryPosInterleaved?: boolean
  /** 1-based: the layer's place in the KV cache. Default 1. */
  readonly layerNumber?: number
}

/** A layer as the decoder runs it: packed tokens in, packed tokens out. */
export interface DecoderLayer extends Module {
  /** @param x packed [T, hidden]; `out` may be x */
  run(x: Tensor, ctx: LayerContext, out?: Tensor): Tensor
  /** The projections, which FP8 recipes apply to, by path. */
  linears(): [path: string, part: Linear][]
}

/**
 * x + attention(norm(x)), then + mlp(norm(·)), every residual added before the one rounding of the projection it follows.
 * A decode step enqueues nine ops (twelve with post norms, one more in FP8): norm, qkv, rope + append, attention,
 * proj, norm, fc1, activation, fc2.
 */
export class TransformerLayer implements DecoderLayer {
  readonly options: TransformerLayerOptions
  readonly selfAttention: MultiheadAttention
  readonly layernormMlp: LayerNormMLP
  readonly postAttentionNorm: Norm | undefined
  readonly postMlpNorm: Norm | undefined

  /** @throws OctetError `INVALID_ARGUMENT` */
  constructor(options: TransformerLayerOptions) {
    this.options = options
    const { hiddenSize, bias = true } = options
    checkSizes('TransformerLayer', { hiddenSize, ffnHiddenSize: options.ffnHiddenSize, layerNumber: options.layerNumber ?? 1 })
    checkDropout('TransformerLayer', 'hiddenDropout', options.hiddenDropout)
    const biases = typeof bias === 'boolean' ? { qkv: bias, proj: bias, mlp: bias } : { qkv: true, proj: true, mlp: true, ...bias }
    using construction = new Construction()
    this.selfAttention = new MultiheadAttention({
      ...options,
      attnMaskType: options.selfAttnMaskType,
      qkvFormat: options.attnInputFormat,
      bias: biases.qkv,
      projBias: biases.proj,
      inputLayernorm: true,
    })
    this.layernormMlp = new LayerNormMLP({ ...options, eps: options.layernormEpsilon, bias: biases.mlp })
    if (options.postNorms === true) {
      const norm = () => makeNorm(options.normalization ?? 'LayerNorm', { ...options, normalizedShape: hiddenSize, eps: options.layernormEpsilon })
      this.postAttentionNorm = norm()
      this.postMlpNorm = norm()
      if (options.initialize !== false) for (const n of [this.postAttentionNorm, this.postMlpNorm]) n.initialize()
    }
    construction.complete()
  }

  get attnInputFormat(): QkvFormat {
    return this.selfAttention.core.qkvFormat
  }

  /**
   * @param x `bshd` [B, S, hidden], `sbhd` [S, B, hidden] or `thd` [T, hidden], in the layer's dtype
   * @returns as x; enqueued, not yet computed
   * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`
   */
  forward(x: Tensor, ctx: ForwardContext = {}): Tensor {
    const dtype = this.options.dtype ?? 'f32'
    if (x.dtype !== dtype) throw new OctetError('DTYPE_MISMATCH', { op: 'TransformerLayer', argument: 'x', expected: dtype, received: x.dtype })
    const maskType = ctx.selfAttnMaskType ?? this.selfAttention.core.maskType
    return withTokens('TransformerLayer', [x], this.attnInputFormat, maskType, ctx, ([tokens], c) => this.run(tokens!, c))
  }

  run(x: Tensor, ctx: LayerContext, out?: Tensor): Tensor {
    const { workspace } = ctx
    const mid = workspace.get('mid', x.shape, x.dtype)
    if (this.postAttentionNorm === undefined || this.postMlpNorm === undefined) {
      this.selfAttention.run(x, ctx, { out: mid, residual: x })
      return this.layernormMlp.run(mid, workspace, { out, residual: mid, fp8: ctx.fp8 })
    }
    const delta: RunOptions = { out: workspace.get('delta', x.shape, x.dtype) }
    const attended = this.postAttentionNorm.forward(this.selfAttention.run(x, ctx, delta), workspace.get('post', x.shape, x.dtype))
    const fed = this.layernormMlp.run(attended, workspace, { ...delta, fp8: ctx.fp8 }, { residual: x, out: mid })
    return add({ a: mid, b: this.postMlpNorm.forward(fed, attended), out })
  }

  weights(): [string, Weight][] {
    const posts = this.#postNorms().map(([name, norm]) => [`${name}.weight`, norm.weight] as [string, Weight])
    return [...prefixed('self_attention', this.selfAttention).weights, ...prefixed('layernorm_mlp', this.layernormMlp).weights, ...posts]
  }

  stateEntries(): StateEntry[] {
    const posts = this.#postNorms().map(([name, norm]) => ({ name: `${name}.weight`, weight: norm.weight }))
    return [...prefixed('self_attention', this.selfAttention).state, ...prefixed('layernorm_mlp', this.layernormMlp).state, ...posts]
  }

  linears(): [string, Linear][] {
    const { qkv, proj } = this.selfAttention
    const { fc1, fc2 } = this.layernormMlp
    return [['self_attention.layernorm_qkv', qkv], ['self_attention.proj', proj], ['layernorm_mlp.fc1', fc1], ['layernorm_mlp.fc2', fc2]]
  }

  dispose(): void {
    disposeAll([this.selfAttention, this.layernormMlp, this.postAttentionNorm, this.postMlpNorm])
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #postNorms(): [string, Norm][] {
    const norms: [string, Norm | undefined][] = [
      ['post_attention_norm', this.postAttentionNorm],
      ['post_mlp_norm', this.postMlpNorm],
    ]
    return norms.filter((entry): entry is [string, Norm] => entry[1] !== undefined)
  }
}
