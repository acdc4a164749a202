import { OctetError, type Tokenizer } from '@octet-llm/core'
import type { KvDType } from '@octet-llm/kv-cache'
import type { CausalLM } from '@octet-llm/transformer'
import { camelCase, isGenerationField } from './config/fields.js'
import { resolveGenerationConfig, type GenerationConfig, type GenerationOptions } from './config/generation-config.js'
import type { StoppingCriterion } from './engine/stopping.js'
import type { LogitsProcessor, PrefixAllowedTokens } from './processors/types.js'

/** How the cache of a run is laid out. */
export interface KvCacheOptions {
  /** Default false: room for all sequences at their full length. */
  readonly isPaged?: boolean
  /** Tokens of a page. Default 64. */
  readonly pageSize?: number
  /** Paged only. With fewer pages than all sequences need, some wait for others to end. */
  readonly totalNumPages?: number
  /** Default: the model's dtype. */
  readonly dtype?: KvDType
  /** Sequences at once, each beam counting as one; the others wait. Default: all. */
  readonly maxBatchSize?: number
}

/** What one call can ask for: every field of {@link GenerationOptions}, and what only Octet has. */
export interface CallOptions extends GenerationOptions {
  /** A configuration whose fields count where the call sets none. */
  readonly generationConfig?: GenerationOptions
  /** The checkpoint's generation_config.json: counts last, before config.json's special tokens and the defaults. */
  readonly modelGenerationConfig?: GenerationOptions
  /** Go on after EOS, up to the length. Default false. */
  readonly ignoreEos?: boolean
  /**
   * Default true. False: the token that prefill gives does not count, so each row has maxNewTokens + 1 new ones and
   * `sequences` that fixed width, as in TransformerEngine's te_gemma.
   */
  readonly countPrefillToken?: boolean
  /** Whole number below 2^53. Default: a random one, told in the result. */
  readonly seed?: number
  /**
   * Numbers of the sequences (of the prompts in beam search) for sampling. Default 0, 1, …; with the same seed and
   * number a sequence draws the same in any batch.
   */
  readonly sequenceIds?: readonly number[]
  readonly signal?: AbortSignal
  readonly logitsProcessors?: readonly LogitsProcessor[]
  readonly prefixAllowedTokens?: PrefixAllowedTokens
  readonly stoppingCriteria?: readonly StoppingCriterion[]
  readonly kvCache?: KvCacheOptions
  /** Most tokens of a prompt, pads left out. Default: what the model has positions for. */
  readonly maxPromptLength?: number
  /** Decode by recorded steps (CUDA graphs on a GPU) where the model can be recorded. Default true; the tokens are the same. */
  readonly graphs?: boolean
  /** Recorded steps enqueued ahead where nothing needs the host between them. Default 8; on a CPU 2 where EOS may end a row. */
  readonly stepsPerSync?: number
}

const CALL_OPTIONS: ReadonlySet<string> = new Set<Exclude<keyof CallOptions, keyof GenerationOptions> | 'inputIds' | 'attentionMask' | 'onTokens' | 'tokenizer'>([
  'generationConfig', 'modelGenerationConfig', 'ignoreEos', 'countPrefillToken', 'seed', 'sequenceIds', 'signal', 'logitsProcessors',
  'prefixAllowedTokens', 'stoppingCriteria', 'kvCache', 'maxPromptLength', 'graphs', 'stepsPerSync', 'inputIds', 'attentionMask', 'onTokens', 'tokenizer',
])

/** A call, checked, with every default filled in; the prompts are still to come. */
export interface Settings {
  readonly config: GenerationConfig
  /** Ids that end a sequence: none with ignoreEos. */
  readonly eosTokenIds: readonly number[]
  readonly seed: number
  readonly options: CallOptions
  readonly tokenizer?: Pick<Tokenizer, 'tokenBytes'>
}

function refuse(argument: string, expected: string, received: string, hint?: string): never {
  throw new OctetError('INVALID_ARGUMENT', { op: 'generate', argument, expected, received, ...(hint === undefined ? {} : { hint }) })
}

/** @throws OctetError `INVALID_ARGUMENT` for a name that no option has. */
function checkNames(options: object, isKnown: (name: string) => boolean, prefix = ''): void {
  for (const name of Object.keys(options)) {
    if (isKnown(name)) continue
    const camel = camelCase(name)
    refuse(`${prefix}${name}`, 'a known option', 'an unknown one', isKnown(camel) ? `write ${camel}` : 'remove it')
  }
}

/**
 * Checks all that can be known before the prompts are.
 * @throws OctetError `INVALID_ARGUMENT`, `NOT_SUPPORTED`, each naming the option
 */
export function resolveSettings(info: CausalLM['info'], options: CallOptions, tokenizer?: Pick<Tokenizer, 'tokenBytes'>): Settings {
  checkNames(options, (name) => CALL_OPTIONS.has(name) || isGenerationField(name))
  checkNames(options.generationConfig ?? {}, isGenerationField, 'generationConfig.')
  checkNames(options.modelGenerationConfig ?? {}, isGenerationField, 'modelGenerationConfig.')
  const config = resolveGenerationConfig({
    call: options,
    ...(options.generationConfig === undefined ? {} : { config: options.generationConfig }),
    ...(options.modelGenerationConfig === undefined ? {} : { model: options.modelGenerationConfig }),
    info,
  })
  const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32)
  if (!Number.isSafeInteger(seed) || seed < 0) refuse('seed', 'a whole number from 0 below 2^53', String(seed))
  if (config.stopStrings.length > 0 && tokenizer === undefined) {
    refuse('stopStrings', 'a tokenizer beside them', 'none', 'pass the tokenizer of the model')
  }
  return {
    config,
    eosTokenIds: options.ignoreEos === true ? [] : config.eosTokenId,
    seed,
    options,
    ...(tokenizer === undefined ? {} : { tokenizer }),
  }
}
