import { OctetError } from '@octet-llm/core'
import { checkSizes, type CausalLM } from '@octet-llm/transformer'

import { Engine, type EngineOptions } from './engine/engine.js'
import type { EngineHandle } from './engine/entry.js'
import type { EngineSource } from './engine/engine-source.js'
import { generateOn, type GenerateTokensOptions } from './generate.js'
import type { GenerateOutput } from './output.js'
import type { GenerationPlan } from './plan.js'

export interface GraphedGeneratorOptions {
  /** Most sequences that decode at once, each beam counting as one; further ones wait for a place. */
  readonly maxBatchSize: number
  /** Most tokens of a prompt. */
  readonly maxPromptLength: number
}

/**
 * Generation whose cache and recorded steps outlive the call: the first call records, and every later one of any batch and
 * any prompt up to the sizes replays, as long as it asks for the same kind of cache and for no more new tokens than a call
 * before it. One that asks for more, or for another cache, records anew. Calls may overlap; those beyond the first record
 * for themselves.
 */
export class GraphedGenerator {
  readonly #model: CausalLM
  readonly #sizes: GraphedGeneratorOptions
  readonly #engines: KeptEngine
  #disposed = false

  /** @throws OctetError `INVALID_ARGUMENT` for a size below 1 */
  constructor(model: CausalLM, sizes: GraphedGeneratorOptions) {
    const { maxBatchSize, maxPromptLength } = sizes
    checkSizes('GraphedGenerator', { maxBatchSize, maxPromptLength })
    this.#model = model
    this.#sizes = sizes
    this.#engines = new KeptEngine(model, sizes.maxPromptLength)
  }

  /** Tokens in, tokens out. @throws OctetError as generateTokens; `CONTEXT_TOO_LONG` for a longer prompt; `DISPOSED` */
  async generate(options: GenerateTokensOptions): Promise<GenerateOutput> {
    if (this.#disposed) throw new OctetError('DISPOSED', { op: 'GraphedGenerator.generate', message: '[GraphedGenerator.generate] the generator was disposed; create a new one' })
    const { maxBatchSize, maxPromptLength } = this.#sizes
    return generateOn(this.#model, { graphs: true, maxPromptLength, ...options, kvCache: { maxBatchSize, ...options.kvCache } }, this.#engines)
  }

  /** Frees the cache and the recordings, once no call runs; before the model. Idempotent. */
  dispose(): void {
    this.#disposed = true
    this.#engines.dispose()
  }
}

/** One engine, kept between runs. */
class KeptEngine implements EngineSource {
  readonly #model: CausalLM
  readonly #maxPromptLength: number
  #idle: { readonly engine: Engine; readonly options: EngineOptions } | undefined
  readonly #options = new WeakMap<Engine, EngineOptions>()
  #disposed = false

  constructor(model: CausalLM, maxPromptLength: number) {
    this.#model = model
    this.#maxPromptLength = maxPromptLength
  }

  acquire(plan: GenerationPlan): Engine {
    const room = this.#maxPromptLength + Math.max(...plan.requests.map((request) => request.maxNewTokens)) - 1
    const maxSequenceLength = Math.min(Math.max(plan.engine.maxSequenceLength, room), this.#model.info.maxPositionEmbeddings)
    const kept = this.#idle
    this.#idle = undefined
    if (kept !== undefined && kindOf(kept.options) === kindOf(plan.engine) && kept.options.maxSequenceLength >= maxSequenceLength) return kept.engine
    kept?.engine.dispose()
    const options = { ...plan.engine, maxSequenceLength }
    const engine = new Engine(this.#model, options)
    this.#options.set(engine, options)
    return engine
  }

  release(engine: Engine, handles: readonly EngineHandle[]): void {
    for (const handle of handles) engine.remove(handle)
    const options = this.#options.get(engine)!
    if (this.#disposed || this.#idle !== undefined) engine.dispose()
    else this.#idle = { engine, options }
  }

  dispose(): void {
    this.#disposed = true
    this.#idle?.engine.dispose()
    this.#idle = undefined
  }
}

/** What two engines must have in common to stand for each other, but the length. */
function kindOf({ maxSequenceLength: _, ...rest }: EngineOptions): string {
  return JSON.stringify(Object.entries(rest).sort())
}
