import type { CausalLMInfo } from './causal-lm.js'
import type { ModuleOptions } from './module.js'
import type { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import type { TransformerLayer } from './transformer-layer.js'

/** A checkpoint tensor and the parameter that holds it; addresses as findWeight takes them. */
export interface WeightMapEntry {
  /** Name in the checkpoint. */
  readonly name: string
  /** Parameter of the model, e.g. `layers.0.self_attention.layernorm_qkv.weight.query`. */
  readonly address: string
  /** May be absent from the checkpoint. */
  readonly optional?: boolean
}

/** What tells one decoder from another, besides its layers. */
export interface DecoderOptions extends ModuleOptions {
  readonly dtype: 'f32' | 'bf16'
  readonly info: CausalLMInfo
  /** Built by the caller, owned by the model. */
  readonly layers: readonly TransformerLayer[]
  /** `te` (default): fused. `reference`: the plain layer of Hugging Face, op by op, on the same weights. */
  readonly decoderLayer?: 'te' | 'reference'
  /** Rotary embedding of each layer; layers may share one. Owned by the model. */
  readonly ropes: readonly RotaryPositionEmbedding[]
  /** Multiplies the embedding (Gemma). Default 1. */
  readonly embeddingScale?: number
  readonly layernormEpsilon: number
  readonly zeroCenteredGamma?: boolean
  readonly castBeforeWeight?: boolean
  /** The head is the embedding table. */
  readonly tieWordEmbeddings: boolean
  /** tanh(x / cap) * cap on the logits (Gemma 2). Default: none. */
  readonly finalLogitSoftcapping?: number
  readonly weightMap: readonly WeightMapEntry[]
}
