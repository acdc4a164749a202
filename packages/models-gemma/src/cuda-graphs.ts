import { GraphedGenerator, type GenerateOutput, type GenerateTokensOptions } from '@octet-llm/generation'
import type { ModelConfig } from '@octet-llm/hf-loader/config'
import { checkSizes, chooseFromConfig, type FromConfigOptions } from '@octet-llm/transformer'

import type { TEGemmaOptions } from './config.js'
import { loadPretrained, type FromPretrainedOptions } from './load.js'
import { TEGemmaForCausalLM } from './model.js'

/** The static sizes of captured generation, by TransformerEngine's names. */
export interface CudaGraphsOptions {
  /** Most sequences that decode at once; further ones wait for a place. */
  readonly cudaGraphsStaticBatchSize: number
  /** Most tokens of a prompt. */
  readonly cudaGraphsStaticMaxContextLen: number
}

/**
 * {@link TEGemmaForCausalLM} whose `generate` always decodes by recorded steps: CUDA graphs on a GPU, recorded commands on a
 * CPU. Any batch and any prompt up to the static sizes run, and neither has to equal them; cache and recordings are kept
 * from call to call (see GraphedGenerator).
 */
export class TEGemmaForCausalLMCudaGraphs extends TEGemmaForCausalLM {
  readonly cudaGraphsStaticBatchSize: number
  readonly cudaGraphsStaticMaxContextLen: number
  readonly #generator: GraphedGenerator

  /** @throws OctetError as TEGemmaForCausalLM; `INVALID_ARGUMENT` for a static size below 1 */
  constructor(config: ModelConfig, options: TEGemmaOptions & CudaGraphsOptions) {
    const { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen } = options
    checkSizes('TEGemmaForCausalLMCudaGraphs', { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
    super(config, options)
    this.cudaGraphsStaticBatchSize = cudaGraphsStaticBatchSize
    this.cudaGraphsStaticMaxContextLen = cudaGraphsStaticMaxContextLen
    this.#generator = this.own(new GraphedGenerator(this, { maxBatchSize: cudaGraphsStaticBatchSize, maxPromptLength: cudaGraphsStaticMaxContextLen }))
  }

  static override fromConfig(config: ModelConfig, { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen, ...options }: FromConfigOptions & CudaGraphsOptions): TEGemmaForCausalLMCudaGraphs {
    return new TEGemmaForCausalLMCudaGraphs(config, { ...chooseFromConfig(options, config.dtype), cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
  }

  /** As TEGemmaForCausalLM.fromPretrained. */
  static override fromPretrained(dir: string, options: FromPretrainedOptions & CudaGraphsOptions): Promise<TEGemmaForCausalLMCudaGraphs> {
    const { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen } = options
    const make = (config: ModelConfig, rest: TEGemmaOptions) => new TEGemmaForCausalLMCudaGraphs(config, { ...rest, cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
    return loadPretrained(dir, options, make)
  }

  /** Tokens in, tokens out. @throws OctetError as generateTokens; `CONTEXT_TOO_LONG` for a prompt past the static length */
  override generate(options: GenerateTokensOptions): Promise<GenerateOutput> {
    return this.#generator.generate({ modelGenerationConfig: this.generationConfig, ...options })
  }
}
