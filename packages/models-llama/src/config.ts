import { OctetError } from '@octet-llm/core'
import type { HiddenActivation, ModelConfig } from '@octet-llm/hf-loader/config'
import type { GenerationOptions } from '@octet-llm/generation'
import type { Device } from '@octet-llm/kernels'
import { ropeReach, RotaryPositionEmbedding, type Activation, type CausalLMInfo, type Fp8Inference, type TransformerLayerOptions } from '@octet-llm/transformer'

/** What a layer takes besides its config. */
export interface LlamaLayerOptions {
  readonly device: Device
  /** Of activations. Default 'bf16'. */
  readonly dtype?: 'f32' | 'bf16'
  /** Storage of the projections. Default `dtype`. */
  readonly weightDtype?: 'f32' | 'bf16' | 'f16'
  /** Projections in FP8. Default: none. */
  readonly fp8?: Fp8Inference | undefined
  /** State has one QKV weight. Default false, as te_llama. */
  readonly fuseQkvParams?: boolean
  /** Default 0. */
  readonly seed?: number
  /** false leaves the weights for a checkpoint to fill. Default true. */
  readonly initialize?: boolean
}

/** What a model takes besides its config. */
export interface TELlamaOptions extends LlamaLayerOptions {
  /** `te` (default): fused layers. `reference`: Hugging Face's layer, op by op, on the same weights. */
  readonly decoderLayer?: 'te' | 'reference'
  /** Overrides the config: a checkpoint whose tied head differs from its embedding is not tied. */
  readonly tieWordEmbeddings?: boolean
  /** generation_config.json: what `generate` falls back to. */
  readonly generationConfig?: GenerationOptions
}

const ACTIVATIONS: Readonly<Record<HiddenActivation, Activation>> = {
  silu: 'swiglu',
  gelu_pytorch_tanh: 'geglu',
  gelu: 'gegluErf',
  relu: 'reglu',
}

/**
 * LlamaConfig as TransformerLayer options.
 * @param layerIdx 0-based
 * @throws OctetError `UNSUPPORTED_MODEL` for another family's config
 */
export function llamaLayer(config: ModelConfig, layerIdx: number, options: LlamaLayerOptions): TransformerLayerOptions {
  checkFamily(config)
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
    castBeforeWeight: true,
    activation: ACTIVATIONS[config.hiddenActivation],
    bias: { qkv: config.attentionBias, proj: config.attentionBias, mlp: config.mlpBias },
    selfAttnMaskType: 'causal',
    attnInputFormat: 'bshd',
    layerNumber: layerIdx + 1,
  }
}

/** The one rotary embedding that all layers share. */
export function llamaRope(config: ModelConfig, device: Device): RotaryPositionEmbedding {
  const { full } = config.rope
  return new RotaryPositionEmbedding({ device, dim: config.headDim, base: full.theta, scaling: full, maxPositionEmbeddings: config.maxPositionEmbeddings })
}

export function llamaInfo(config: ModelConfig, dtype: 'f32' | 'bf16'): CausalLMInfo {
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
  if (config.modelType === 'llama') return
  throw new OctetError('UNSUPPORTED_MODEL', { op: 'TELlamaForCausalLM', argument: 'config.modelType', expected: 'llama', received: config.modelType, hint: 'use @octet-llm/models-gemma for Gemma' })
}
