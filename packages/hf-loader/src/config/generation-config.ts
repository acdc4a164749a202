import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { isJsonObject, readJsonObject, type JsonObject } from '../io/json-file.js'
import type { ReadOptions } from '../io/read-tensor.js'
import { Fields, isTokenId, show } from './fields.js'

const FILE = 'generation_config.json'
const MAX_BYTES = 2 ** 20

/**
 * What a checkpoint's generation_config.json sets; a field that it leaves out or sets to null is absent here, so that the
 * caller's own defaults and options can be laid over and under it.
 */
export interface GenerationConfigFile {
  readonly maxLength?: number
  readonly maxNewTokens?: number
  readonly minLength?: number
  readonly minNewTokens?: number
  readonly doSample?: boolean
  readonly numBeams?: number
  readonly numReturnSequences?: number
  readonly earlyStopping?: boolean | 'never'
  readonly temperature?: number
  /** 0 switches it off. */
  readonly topK?: number
  readonly topP?: number
  readonly minP?: number
  readonly typicalP?: number
  readonly epsilonCutoff?: number
  readonly etaCutoff?: number
  readonly repetitionPenalty?: number
  readonly noRepeatNgramSize?: number
  readonly lengthPenalty?: number
  readonly badWordsIds?: readonly (readonly number[])[]
  readonly suppressTokens?: readonly number[]
  readonly beginSuppressTokens?: readonly number[]
  readonly stopStrings?: readonly string[]
  readonly bosTokenId?: number
  /** Every id that ends a sequence: chat models have several. */
  readonly eosTokenId?: readonly number[]
  readonly padTokenId?: number
}

/**
 * Reads `generation_config.json` of a checkpoint folder; an absent file sets nothing.
 * @throws OctetError `INVALID_JSON`, `INVALID_CONFIG` naming the field.
 */
export async function readGenerationConfig(dir: string, options: ReadOptions = {}): Promise<GenerationConfigFile> {
  const op = 'readGenerationConfig'
  const path = join(dir, FILE)
  if (!existsSync(path)) return {}
  return parse(new Fields(op, path, await readJsonObject(path, { op, maxBytes: MAX_BYTES, signal: options.signal })))
}

/**
 * Brings a parsed generation_config.json into typed form.
 * @throws OctetError `INVALID_CONFIG` naming the field that is out of range.
 */
export function parseGenerationConfig(json: unknown): GenerationConfigFile {
  const op = 'parseGenerationConfig'
  if (isJsonObject(json)) return parse(new Fields(op, FILE, json))
  throw new OctetError('INVALID_ARGUMENT', { op, argument: 'json', expected: 'a parsed generation_config.json', received: show(json) })
}

const COUNT = { min: 0, max: 2 ** 31 - 1 } as const
const AT_LEAST_ONE = { min: 1, max: 2 ** 31 - 1 } as const
const SHARE = { min: 0, max: 1 } as const

function parse(fields: Fields): GenerationConfigFile {
  return withoutUndefined({
    maxLength: fields.integer('max_length', COUNT),
    maxNewTokens: fields.integer('max_new_tokens', COUNT),
    minLength: fields.integer('min_length', COUNT),
    minNewTokens: fields.integer('min_new_tokens', COUNT),
    doSample: fields.boolean('do_sample'),
    numBeams: fields.integer('num_beams', AT_LEAST_ONE),
    numReturnSequences: fields.integer('num_return_sequences', AT_LEAST_ONE),
    earlyStopping: readEarlyStopping(fields),
    temperature: fields.number('temperature', { min: 0 }),
    topK: fields.integer('top_k', COUNT),
    topP: fields.number('top_p', SHARE),
    minP: fields.number('min_p', SHARE),
    typicalP: fields.number('typical_p', SHARE),
    epsilonCutoff: fields.number('epsilon_cutoff', SHARE),
    etaCutoff: fields.number('eta_cutoff', SHARE),
    repetitionPenalty: fields.number('repetition_penalty', { min: 0, above: true }),
    noRepeatNgramSize: fields.integer('no_repeat_ngram_size', COUNT),
    lengthPenalty: fields.number('length_penalty'),
    badWordsIds: fields.list('bad_words_ids', 'non-empty lists of token ids', isWord),
    suppressTokens: fields.list('suppress_tokens', 'token ids', isTokenId),
    beginSuppressTokens: fields.list('begin_suppress_tokens', 'token ids', isTokenId),
    stopStrings: typeof fields.value('stop_strings') === 'string' ? [fields.string('stop_strings')!] : fields.strings('stop_strings'),
    bosTokenId: fields.tokenId('bos_token_id') ?? undefined,
    eosTokenId: fields.isNull('eos_token_id') ? undefined : fields.tokenIds('eos_token_id'),
    padTokenId: fields.tokenId('pad_token_id') ?? undefined,
  })
}

function readEarlyStopping(fields: Fields): boolean | 'never' | undefined {
  const value = fields.value('early_stopping')
  if (value === 'never') return value
  return fields.boolean('early_stopping')
}

function isWord(item: unknown): item is readonly number[] {
  return Array.isArray(item) && item.length > 0 && item.every(isTokenId)
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> }

function withoutUndefined<T extends JsonObject>(object: T): Defined<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Defined<T>
}
