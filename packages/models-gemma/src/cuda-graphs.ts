import { OctetError } from '@octet-llm/core'
import type { GenerateOutput, GenerateTokensOptions } from '@octet-llm/generation'
import type { ModelConfig } from '@octet-llm/hf-loader/config'

import { loadPretrained, type FromPretrainedOptions } from './load.js'
import { TEGemmaForCausalLM, type TEGemmaOptions } from './model.js'

/** The static sizes of captured generation, by TransformerEngine's names. */
export interface CudaGraphsOptions {
  /** Most sequences that decode at once; further ones wait for a place. */
  readonly cudaGraphsStaticBatchSize: number
  /** Most tokens of a prompt. */
  readonly cudaGraphsStaticMaxContextLen: number
}

/**
 * {@link TEGemmaForCausalLM} whose `generate` always decodes by recorded steps: CUDA graphs on a GPU, recorded commands on a
 * CPU. Any batch and any prompt up to the static sizes run; neither has to equal them.
 */
export class TEGemmaForCausalLMCudaGraphs extends TEGemmaForCausalLM {
  readonly cudaGraphsStaticBatchSize: number
  readonly cudaGraphsStaticMaxContextLen: number

  /** @throws OctetError as TEGemmaForCausalLM; `INVALID_ARGUMENT` for a static size below 1 */
  constructor(config: ModelConfig, options: TEGemmaOptions & CudaGraphsOptions) {
    for (const argument of ['cudaGraphsStaticBatchSize', 'cudaGraphsStaticMaxContextLen'] as const) {
      const value = options[argument]
      if (Number.isSafeInteger(value) && value >= 1) continue
      throw new OctetError('INVALID_ARGUMENT', { op: 'TEGemmaForCausalLMCudaGraphs', argument, expected: 'a whole number of at least 1', received: String(value) })
    }
    super(config, options)
    this.cudaGraphsStaticBatchSize = options.cudaGraphsStaticBatchSize
    this.cudaGraphsStaticMaxContextLen = options.cudaGraphsStaticMaxContextLen
  }

  /** As TEGemmaForCausalLM.fromPretrained. */
  static override fromPretrained(dir: string, options: FromPretrainedOptions & CudaGraphsOptions): Promise<TEGemmaForCausalLMCudaGraphs> {
    const { cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen } = options
    const make = (config: ModelConfig, rest: TEGemmaOptions) => new TEGemmaForCausalLMCudaGraphs(config, { ...rest, cudaGraphsStaticBatchSize, cudaGraphsStaticMaxContextLen })
    return loadPretrained(dir, options, make) as Promise<TEGemmaForCausalLMCudaGraphs>
  }

  /** Tokens in, tokens out. @throws OctetError as generateTokens; `CONTEXT_TOO_LONG` for a prompt past the static length */
  override generate(options: GenerateTokensOptions): Promise<GenerateOutput> {
    const { cudaGraphsStaticBatchSize: maxBatchSize, cudaGraphsStaticMaxContextLen: maxPromptLength } = this
    return super.generate({ graphs: true, maxPromptLength, ...options, kvCache: { maxBatchSize, ...options.kvCache } })
  }
}
