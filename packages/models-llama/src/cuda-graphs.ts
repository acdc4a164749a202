import { GraphedGenerator, type GenerateOutput, type GenerateTokensOptions } from '@octet-llm/generation'
import type { ModelConfig } from '@octet-llm/hf-loader/config'
import { checkSizes, chooseFromConfig, type FromConfigOptions } from '@octet-llm/transformer'

import type { TELlamaOptions } from './config.js'
import { loadPretrained, type FromPretrainedOptions } from './load.js'
import { TELlamaForCausalLM } from './model.js'

/** The static sizes of captured generation, by TransformerEngine's names. */
export interface CudaGraphsOptions {
  /** Most sequences that decode at once; further ones wait for a place. */
  readonly cudaGraphsStaticBatchSize: number
  /** Most tokens of a prompt. */
  readonly cudaGraphsStaticMaxContextLen: number
}

/**
 * {@link TELlamaForCausalLM} whose `generate` always decodes by recorded steps: CUDA graphs on a GPU, recorded commands on a
 * CPU. Any batch and any prompt up to the static sizes run, and neither has to equal them; cache and recordings are kept
 * from call to call (see GraphedGenerator).
 */
export class TELlamaForCausalLMCudaGraphs extends TELlamaForCausalLM {
  readonly cudaGraphsStaticBatchSize: number
  readonly cudaGraphsStaticMaxContextLen: number
  readonly #generator: GraphedGenerator

  /** @throws OctetError as TELlamaForCausalLM; `INVALID_ARGUMENT` for a static size below 1 */
  constructor(config: ModelConfig, options: TELlamaOptions & CudaGraphsOptions) {
    const { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen } = options
    checkSizes('TELlamaForCausalLMCudaGraphs', { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
    super(config, options)
    this.cudaGraphsStaticBatchSize = cudaGraphsStaticBatchSize
    this.cudaGraphsStaticMaxContextLen = cudaGraphsStaticMaxContextLen
    this.#generator = this.own(new GraphedGenerator(this, { maxBatchSize: cudaGraphsStaticBatchSize, maxPromptLength: cudaGraphsStaticMaxContextLen }))
  }

  static override fromConfig(config: ModelConfig, { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen, ...options }: FromConfigOptions & CudaGraphsOptions): TELlamaForCausalLMCudaGraphs {
    return new TELlamaForCausalLMCudaGraphs(config, { ...chooseFromConfig(options, config.dtype), cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
  }

  /** As TELlamaForCausalLM.fromPretrained. */
  static override fromPretrained(dir: string, options: FromPretrainedOptions & CudaGraphsOptions): Promise<TELlamaForCausalLMCudaGraphs> {
    const { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen } = options
    const make = (config: ModelConfig, rest: TELlamaOptions) => new TELlamaForCausalLMCudaGraphs(config, { ...rest, cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
    return loadPretrained(dir, options, make)
  }

  /** Tokens in, tokens out. @throws OctetError as generateTokens; `CONTEXT_TOO_LONG` for a prompt past the static length */
  override generate(options: GenerateTokensOptions): Promise<GenerateOutput> {
    return this.#generator.generate({ modelGenerationConfig: this.generationConfig, ...options })
  }
}
