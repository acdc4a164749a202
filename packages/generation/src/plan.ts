import { OctetError } from '@octet-llm/core'
import type { CausalLM } from '@octet-llm/transformer'
import type { EngineOptions } from './engine/engine.js'
import { TokenBytes } from './engine/stopping.js'
import type { EngineRequest } from './engine/task.js'
import { preparePrompts, type PromptInput, type PromptRow } from './prompt.js'
import type { Settings } from './settings.js'

/** New tokens where neither maxNewTokens nor maxLength is set, as in transformers. */
const DEFAULT_NEW_TOKENS = 20

/** A call whose every request fits the model: what is left is to run it. */
export interface GenerationPlan {
  readonly settings: Settings
  readonly prompts: readonly PromptRow[]
  /** numReturnSequences requests a prompt, or one in beam search. */
  readonly requests: readonly EngineRequest[]
  readonly engine: EngineOptions
}

/**
 * Turns a batch of prompts into requests.
 * @throws OctetError `CONTEXT_TOO_LONG` when prompt plus new tokens pass the model's positions, `INVALID_ARGUMENT`
 */
export function planGeneration(info: CausalLM['info'], settings: Settings, input: PromptInput): GenerationPlan {
  const { config, options, seed, tokenizer } = settings
  const prompts = preparePrompts(input, { vocabSize: info.vocabSize, padTokenId: config.padTokenId, eosTokenIds: config.eosTokenId })
  const copies = config.numBeams > 1 ? 1 : config.numReturnSequences
  const numbers = sequenceNumbers(settings, prompts.length * copies)
  const bytes = tokenizer === undefined ? undefined : new TokenBytes((ids) => tokenizer.tokenBytes(ids))
  const requests = prompts.flatMap((prompt, b) => {
    const maxNewTokens = newTokenLimit(info, settings, prompt, b)
    return Array.from({ length: copies }, (_, copy): EngineRequest => ({
      tokens: prompt.tokens,
      row: prompt.row,
      config,
      maxNewTokens,
      eosTokenIds: settings.eosTokenIds,
      seed,
      sequence: numbers[b * copies + copy]!,
      ...(options.logitsProcessors === undefined ? {} : { processors: options.logitsProcessors }),
      ...(options.prefixAllowedTokens === undefined ? {} : { prefixAllowedTokens: options.prefixAllowedTokens }),
      ...(options.stoppingCriteria === undefined ? {} : { criteria: options.stoppingCriteria }),
      ...(bytes === undefined ? {} : { tokenBytes: bytes }),
    }))
  })
  return { settings, prompts, requests, engine: engineOptions(settings, requests) }
}

function sequenceNumbers({ options }: Settings, count: number): readonly number[] {
  const numbers = options.sequenceIds ?? Array.from({ length: count }, (_, i) => i)
  if (numbers.length !== count || numbers.some((n) => !Number.isInteger(n) || n < 0 || n >= 2 ** 32)) {
    throw new OctetError('INVALID_ARGUMENT', {
      op: 'generate', argument: 'sequenceIds', expected: `${count} whole numbers from 0 below 2^32`, received: `[${numbers.join(', ')}]`,
    })
  }
  return numbers
}

function newTokenLimit(info: CausalLM['info'], { config, options }: Settings, prompt: PromptRow, b: number): number {
  const { maxPromptLength } = options
  if (maxPromptLength !== undefined && prompt.tokens.length > maxPromptLength) {
    throw new OctetError('CONTEXT_TOO_LONG', {
      op: 'generate', argument: `prompt ${b}`, expected: `at most ${maxPromptLength} tokens`, received: String(prompt.tokens.length), hint: 'shorten the prompt or raise maxPromptLength',
    })
  }
  const room = info.maxPositionEmbeddings - prompt.tokens.length
  let limit: number
  if (config.maxNewTokens !== null) limit = config.maxNewTokens
  else if (config.maxLength !== null) limit = config.maxLength - prompt.row.length
  else limit = Math.max(1, Math.min(DEFAULT_NEW_TOKENS, room))
  if (limit < 1) {
    throw new OctetError('INVALID_ARGUMENT', {
      op: 'generate', argument: 'maxLength', expected: `more than the ${prompt.row.length} ids of prompt ${b}`, received: String(config.maxLength),
      hint: 'raise maxLength, or set maxNewTokens',
    })
  }
  if (options.countPrefillToken === false) limit += 1
  if (limit > room) {
    throw new OctetError('CONTEXT_TOO_LONG', {
      op: 'generate',
      argument: `prompt ${b}`,
      expected: `prompt plus new tokens of at most ${info.maxPositionEmbeddings}`,
      received: `${prompt.tokens.length} + ${limit}`,
      hint: 'shorten the prompt or lower maxNewTokens',
    })
  }
  return limit
}

function engineOptions({ config, options }: Settings, requests: readonly EngineRequest[]): EngineOptions {
  const { isPaged, pageSize, totalNumPages, dtype, maxBatchSize } = options.kvCache ?? {}
  const longest = Math.max(...requests.map((r) => r.tokens.length + r.maxNewTokens - 1))
  return {
    maxBatchSize: maxBatchSize ?? requests.length * config.numBeams,
    maxSequenceLength: longest,
    prefillChunkSize: config.prefillChunkSize,
    ...(isPaged === undefined ? {} : { isPaged }),
    ...(pageSize === undefined ? {} : { pageSize }),
    ...(totalNumPages === undefined ? {} : { totalNumPages }),
    ...(dtype === undefined ? {} : { kvDtype: dtype }),
    ...(options.graphs === undefined ? {} : { graphs: options.graphs }),
    ...(options.stepsPerSync === undefined ? {} : { stepsPerSync: options.stepsPerSync }),
  }
}
