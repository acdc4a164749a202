import { saveCheckpoint, textConfig, type ModelConfig, type SaveOptions } from '@octet-llm/hf-loader'
import { Construction, type Tensor } from '@octet-llm/kernels'
import { generateTokens, type GenerateOutput, type GenerateTokensOptions, type GenerationOptions } from '@octet-llm/generation'
import { DecoderForCausalLM, chooseFromConfig, contextPhase, generationPhase, type FromConfigOptions, type Phase } from '@octet-llm/transformer'

import { embeddingScale, gemmaInfo, gemmaRopes, type TEGemmaOptions } from './config.js'
import { TEGemmaDecoderLayer } from './layer.js'
import { loadPretrained, type FromPretrainedOptions } from './load.js'
import { gemmaWeightMap } from './weight-map.js'

/** GemmaForCausalLM (1, 2 and 3 text) on fused layers. */
export class TEGemmaForCausalLM extends DecoderForCausalLM {
  readonly config: ModelConfig
  readonly generationConfig: GenerationOptions

  /**
   * A model with random weights, a function of the seed alone.
   * @throws OctetError `UNSUPPORTED_MODEL`, `INVALID_ARGUMENT`, `OUT_OF_MEMORY`
   */
  constructor(config: ModelConfig, options: TEGemmaOptions) {
    using construction = new Construction()
    const { device, dtype = 'bf16' } = options
    const tied = options.tieWordEmbeddings ?? config.tieWordEmbeddings
    super({
      ...options,
      dtype,
      initStd: config.initializerRange,
      info: gemmaInfo(config, dtype),
      layers: Array.from({ length: config.numHiddenLayers }, (_, i) => new TEGemmaDecoderLayer(config, i, options)),
      ropes: gemmaRopes(config, device),
      embeddingScale: embeddingScale(config, dtype),
      layernormEpsilon: config.rmsNormEps,
      zeroCenteredGamma: true,
      tieWordEmbeddings: tied,
      ...(config.finalLogitSoftcapping === null ? {} : { finalLogitSoftcapping: config.finalLogitSoftcapping }),
      weightMap: gemmaWeightMap(config, tied),
    })
    this.config = config
    this.generationConfig = options.generationConfig ?? {}
    construction.complete()
  }

  /** Random weights, the same on every device (docs/random-weights.md). @throws OctetError as the constructor and resolveFp8 */
  static fromConfig(config: ModelConfig, options: FromConfigOptions): TEGemmaForCausalLM {
    return new TEGemmaForCausalLM(config, chooseFromConfig(options, config.dtype))
  }

  /**
   * Loads a folder as `save_pretrained` writes it, single or sharded, safetensors or .bin, one tensor in flight.
   * @throws OctetError `FILE_NOT_FOUND`, `INVALID_CONFIG`, `UNSUPPORTED_MODEL`, `CHECKPOINT_MISMATCH`, and what the file
   * formats throw; `signal.reason` when aborted. Nothing stays allocated then.
   */
  static fromPretrained(dir: string, options: FromPretrainedOptions): Promise<TEGemmaForCausalLM> {
    return loadPretrained(dir, options, (config, rest) => new TEGemmaForCausalLM(config, rest))
  }

  /** Tokens in, tokens out. @throws OctetError as generateTokens; `signal.reason` when aborted */
  generate(options: GenerateTokensOptions): Promise<GenerateOutput> {
    return generateTokens(this, { modelGenerationConfig: this.generationConfig, ...options })
  }

  /**
   * Writes an FP8 model as a compressed-tensors checkpoint: the codes and scales that it computes with, static scales
   * where it was calibrated. Loaded with `fp8: true` it gives the same logits, bit for bit. Tokenizer files are not copied.
   * @returns names of the weight files
   * @throws OctetError `INVALID_ARGUMENT` for a model that is not in FP8, and what saveCheckpoint throws
   */
  async exportQuantized(dir: string, options: Pick<SaveOptions, 'signal' | 'maxShardSize' | 'onProgress'> = {}): Promise<string[]> {
    const { tensors, config } = this.quantizedCheckpoint()
    return saveCheckpoint(dir, tensors, { ...options, config: { ...textConfig(this.config.raw), tie_word_embeddings: this.tieWordEmbeddings, ...config } })
  }

  /** Prefill as its own callable over this model. */
  contextPhase(): Phase<Tensor> {
    return contextPhase(this)
  }

  /** Greedy decode of one token a row as its own callable over this model. */
  generationPhase(): Phase<Tensor> {
    return generationPhase(this)
  }
}
