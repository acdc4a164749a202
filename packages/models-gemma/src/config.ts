import { OctetError, roundBf16 } from '@octet-llm/core'
import type { HiddenActivation, ModelConfig } from '@octet-llm/hf-loader/config'
import type { GenerationOptions } from '@octet-llm/generation'
import type { Device } from '@octet-llm/kernels'
import { ropeReach, RotaryPositionEmbedding, type Activation, type CausalLMInfo, type Fp8Inference, type TransformerLayerOptions } from '@octet-llm/transformer'

/** What a layer takes besides its config. */
export interface GemmaLayerOptions {
  readonly device: Device
  /** Of activations. Default 'bf16'. */
  readonly dtype?: 'f32' | 'bf16'
  /** Storage of the projections. Default `dtype`. */
  readonly weightDtype?: 'f32' | 'bf16' | 'f16'
  /** State has one QKV weight, interleaved by KV group. Default false. */
  readonly fuseQkvParams?: boolean
  /** Default 0. */
  readonly seed?: number
  /** Projections in FP8. Default: none. */
  readonly fp8?: Fp8Inference | undefined
  /** false leaves the weights for a checkpoint to fill. Default true. */
  readonly initialize?: boolean
}

/** What a model takes besides its config. */
export interface TEGemmaOptions extends GemmaLayerOptions {
  /** `te` (default): fused layers. `reference`: Hugging Face's layer, op by op, on the same weights. */
  readonly decoderLayer?: 'te' | 'reference'
  /** Overrides the config: a checkpoint whose tied head differs from its embedding is not tied. */
  readonly tieWordEmbeddings?: boolean
  /** generation_config.json: what `generate` falls back to. */
  readonly generationConfig?: GenerationOptions
}

const ACTIVATIONS: Readonly<Record<HiddenActivation, Activation>> = {
  gelu_pytorch_tanh: 'geglu',
  gelu: 'gegluErf',
  silu: 'swiglu',
  relu: 'reglu',
}

/**
 * GemmaConfig (1, 2, 3 text) as TransformerLayer options.
 * @param layerIdx 0-based
 * @throws OctetError `UNSUPPORTED_MODEL` for another family's config
 */
export function gemmaLayer(config: ModelConfig, layerIdx: number, options: GemmaLayerOptions): TransformerLayerOptions {
  checkFamily(config)
  const sliding = config.layerTypes[layerIdx] === 'sliding_attention'
  return {
    ...options,
    dtype: options.dtype ?? 'bf16',
    initStd: config.initializerRange,
    hiddenSize: config.hiddenSize,
    ffnHiddenSize: config.intermediateSize,
    numAttentionHeads: config.numAttentionHeads,
    numGqaGroups: config.numKeyValueHeads,
    kvChannels: config.headDim,
    layernormEpsilon: config.rmsNormEps,
    normalization: 'RMSNorm',
    zeroCenteredGamma: true,
    activation: ACTIVATIONS[config.hiddenActivation],
    bias: { qkv: config.attentionBias, proj: config.attentionBias, mlp: false },
    selfAttnMaskType: 'causal',
    // A window of W tokens counts the query's own.
    windowSize: sliding ? [config.slidingWindow! - 1, 0] : [-1, -1],
    softmaxScale: config.queryPreAttnScalar ** -0.5,
    ...(config.attnLogitSoftcapping === null ? {} : { attnLogitSoftcapping: config.attnLogitSoftcapping }),
    postNorms: config.modelType !== 'gemma',
    ...(config.modelType === 'gemma3_text' ? ({ qkNormType: 'RMSNorm', qkNormBeforeRope: true, qkNormEps: config.rmsNormEps } as const) : {}),
    attnInputFormat: 'bshd',
    layerNumber: layerIdx + 1,
  }
}

/** The rotary embedding of each layer: one for all, or one a kind of layer (Gemma 3). */
export function gemmaRopes(config: ModelConfig, device: Device): RotaryPositionEmbedding[] {
  const { headDim: dim, maxPositionEmbeddings } = config
  const make = (rope: ModelConfig['rope']['full']) => new RotaryPositionEmbedding({ device, dim, base: rope.theta, scaling: rope, maxPositionEmbeddings })
  const full = make(config.rope.full)
  const sliding = config.rope.sliding === undefined ? full : make(config.rope.sliding)
  return config.layerTypes.map((type) => (type === 'sliding_attention' ? sliding : full))
}

/** √hidden in the weights' dtype: Hugging Face rounds the factor itself (2048 → 45.25 in bf16). */
export function embeddingScale(config: ModelConfig, dtype: 'f32' | 'bf16'): number {
  const scale = Math.fround(Math.sqrt(config.hiddenSize))
  return dtype === 'bf16' ? roundBf16(scale) : scale
}

export function gemmaInfo(config: ModelConfig, dtype: 'f32' | 'bf16'): CausalLMInfo {
  return {
    modelType: config.modelType,
    vocabSize: config.vocabSize,
    hiddenSize: config.hiddenSize,
    numLayers: config.numHiddenLayers,
    numHeads: config.numAttentionHeads,
    numKvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    maxPositionEmbeddings: ropeReach(config.rope.full, config.maxPositionEmbeddings),
    dtype,
    bosTokenId: config.bosTokenId,
    eosTokenIds: config.eosTokenIds,
    padTokenId: config.padTokenId,
  }
}

function checkFamily(config: ModelConfig): void {
  if (config.modelType !== 'llama') return
  throw new OctetError('UNSUPPORTED_MODEL', { op: 'TEGemmaForCausalLM', argument: 'config.modelType', expected: 'gemma, gemma2 or gemma3_text', received: config.modelType, hint: 'use @octet-llm/models-llama for Llama' })
}
