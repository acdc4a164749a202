import type { FloatDType } from '@octet-llm/core'
import type { JsonObject } from '../io/json-file.js'
import type { QuantizationConfig } from './quantization.js'
import type { RopeConfig } from './rope.js'

/** Model families that Octet runs. */
export type ModelType = 'gemma' | 'gemma2' | 'gemma3_text' | 'llama'

/** `gelu` is the exact form (erf), `gelu_pytorch_tanh` the tanh approximation. */
export type HiddenActivation = 'gelu_pytorch_tanh' | 'gelu' | 'silu' | 'relu'

export type LayerType = 'full_attention' | 'sliding_attention'

/** A config.json of transformers 4 or 5 in one form, every default filled in and every range checked. */
export interface ModelConfig {
  readonly modelType: ModelType
  /** `model_type` as the file has it: `gemma3` is the multimodal wrapper of a `gemma3_text`. */
  readonly fileModelType: string
  /** Type of the weights, where the file states one. */
  readonly dtype: FloatDType | null
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  /** Divides `numAttentionHeads`; query head h reads KV head floor(h / (numAttentionHeads / numKeyValueHeads)). */
  readonly numKeyValueHeads: number
  /** Even. */
  readonly headDim: number
  readonly hiddenActivation: HiddenActivation
  readonly maxPositionEmbeddings: number
  readonly rmsNormEps: number
  /** Bias on q, k, v and o. */
  readonly attentionBias: boolean
  /** Bias on gate, up and down. */
  readonly mlpBias: boolean
  readonly attentionDropout: number
  /** Scores are multiplied by queryPreAttnScalar^-0.5; the head dimension unless the file says otherwise. */
  readonly queryPreAttnScalar: number
  /** tanh(s / cap) * cap on attention scores; null for none. */
  readonly attnLogitSoftcapping: number | null
  /** The same on logits. */
  readonly finalLogitSoftcapping: number | null
  /** Tokens a sliding layer sees, itself included; null when no layer slides. */
  readonly slidingWindow: number | null
  /** One entry a layer. */
  readonly layerTypes: readonly LayerType[]
  /** `sliding` where sliding layers rotate by other frequencies (Gemma 3). */
  readonly rope: { readonly full: RopeConfig; readonly sliding?: RopeConfig }
  readonly tieWordEmbeddings: boolean
  readonly initializerRange: number
  readonly bosTokenId: number | null
  readonly eosTokenIds: readonly number[]
  readonly padTokenId: number | null
  /** How the weights are quantized; null for a plain checkpoint. */
  readonly quantizationConfig: QuantizationConfig | null
  /** What a user should know of how the file was read, one sentence each. */
  readonly notes: readonly string[]
  /** The parsed file. */
  readonly raw: JsonObject
}
