import type { ModelConfig } from '@octet-llm/hf-loader/config'
import type { Tensor } from '@octet-llm/kernels'
import { TransformerLayer, type ForwardContext } from '@octet-llm/transformer'

import { llamaLayer, type LlamaLayerOptions } from './config.js'

/** What Hugging Face's decoder loop passes and a fused layer has no use for; accepted and ignored. */
export interface HfLayerArguments {
  readonly positionIds?: unknown
  readonly pastKeyValue?: unknown
  readonly pastKeyValues?: unknown
  readonly outputAttentions?: unknown
  readonly useCache?: unknown
  readonly cachePosition?: unknown
  readonly positionEmbeddings?: unknown
}

/** A TransformerLayer made from a LlamaConfig: RMSNorm, gated MLP, GQA, RoPE of the head dimension. */
export class TELlamaDecoderLayer extends TransformerLayer {
  /**
   * @param layerIdx 0-based; the layer's number in the KV cache is one more
   * @throws OctetError `UNSUPPORTED_MODEL`, `INVALID_ARGUMENT`
   */
  constructor(config: ModelConfig, layerIdx: number, options: LlamaLayerOptions) {
    super(llamaLayer(config, layerIdx, options))
  }

  /**
   * @param hiddenStates [B, S, hidden], or a tuple that begins with it
   * @returns [B, S, hidden]
   * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`
   */
  override forward(hiddenStates: Tensor | readonly [Tensor, ...unknown[]], ctx: ForwardContext & HfLayerArguments = {}): Tensor {
    return super.forward(Array.isArray(hiddenStates) ? (hiddenStates[0] as Tensor) : (hiddenStates as Tensor), ctx)
  }
}
