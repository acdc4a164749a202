import { saveCheckpoint, type ModelConfig, type SaveOptions } from '@octet-llm/hf-loader'
import { Construction, type Tensor } from '@octet-llm/kernels'
import { generateTokens, type GenerateOutput, type GenerateTokensOptions, type GenerationOptions } from '@octet-llm/generation'
import { DecoderForCausalLM, chooseFromConfig, contextPhase, generationPhase, type FromConfigOptions, type Phase } from '@octet-llm/transformer'

import { llamaInfo, llamaRope, type TELlamaOptions } from './config.js'
import { TELlamaDecoderLayer } from './layer.js'
import { loadPretrained, type FromPretrainedOptions } from './load.js'
import { llamaWeightMap } from './weight-map.js'

/** LlamaForCausalLM (2, 3, 3.1, 3.2) on fused layers. */
export class TELlamaForCausalLM extends DecoderForCausalLM {
  readonly config: ModelConfig
  readonly generationConfig: GenerationOptions

  /**
   * A model with random weights, a function of the seed alone.
   * @throws OctetError `UNSUPPORTED_MODEL`, `INVALID_ARGUMENT`, `OUT_OF_MEMORY`
   */
  constructor(config: ModelConfig, options: TELlamaOptions) {
    using construction = new Construction()
    const { device, dtype = 'bf16' } = options
    const tied = options.tieWordEmbeddings ?? config.tieWordEmbeddings
    const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => new TELlamaDecoderLayer(config, i, options))
    const rope = llamaRope(config, device)
    super({
      ...options,
      dtype,
      initStd: config.initializerRange,
      info: llamaInfo(config, dtype),
      layers,
      ropes: layers.map(() => rope),
      layernormEpsilon: config.rmsNormEps,
      castBeforeWeight: true,
      tieWordEmbeddings: tied,
      weightMap: llamaWeightMap(config, tied),
    })
    this.config = config
    this.generationConfig = options.generationConfig ?? {}
    construction.complete()
  }

  /** Random weights, the same on every device (docs/random-weights.md). @throws OctetError as the constructor and resolveFp8 */
  static fromConfig(config: ModelConfig, options: FromConfigOptions): TELlamaForCausalLM {
    return new TELlamaForCausalLM(config, chooseFromConfig(options, config.dtype))
  }

  /**
   * Loads a folder as `save_pretrained` writes it, single or sharded, safetensors or .bin, one tensor in flight.
   * @throws OctetError `FILE_NOT_FOUND`, `INVALID_CONFIG`, `UNSUPPORTED_MODEL`, `CHECKPOINT_MISMATCH`, and what the file
   * formats throw; `signal.reason` when aborted. Nothing stays allocated then.
   */
  static fromPretrained(dir: string, options: FromPretrainedOptions): Promise<TELlamaForCausalLM> {
    return loadPretrained(dir, options, (config, rest) => new TELlamaForCausalLM(config, rest))
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
    return saveCheckpoint(dir, tensors, { ...options, config: { ...this.config.raw, tie_word_embeddings: this.tieWordEmbeddings, ...config } })
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
