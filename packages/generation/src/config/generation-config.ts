import { OctetError, type ErrorCode } from '@octet-llm/core'
import { camelCase, GENERATION_FIELDS, isGenerationField, snakeCase, type FieldSpec, type GenerationField } from './fields.js'
import type { SequenceBias } from '../processors/penalties.js'

/**
 * The fields of transformers' GenerationConfig that change what Octet generates. `undefined` and `null` both mean
 * "not set here": the next source, then the default, decides. Defaults are transformers'.
 */
export interface GenerationOptions {
  /** Prompt plus new tokens, pads of the prompt included. Loses to `maxNewTokens`. */
  maxLength?: number | null
  /** New tokens per sequence. Default 20 where `maxLength` is not set either. */
  maxNewTokens?: number | null
  minLength?: number | null
  minNewTokens?: number | null
  /** Beam search: true stops at `numBeams` finished, false (default) by a heuristic, 'never' only when none can win. */
  earlyStopping?: boolean | 'never' | null
  /** Seconds; checked after each token. */
  maxTime?: number | null
  /** Matched on bytes, also inside the last token; the output keeps them. Needs a tokenizer. */
  stopStrings?: string | readonly string[] | null
  /** Default false, but true where the call sets a field that only sampling reads and no source sets `doSample`. */
  doSample?: boolean | null
  /** Default 1. */
  numBeams?: number | null
  /** Default 1. */
  temperature?: number | null
  topH?: number | null
  /** Default 50; 0 turns it off. */
  topK?: number | null
  /** Default 1. */
  topP?: number | null
  minP?: number | null
  /** Default 1. */
  typicalP?: number | null
  epsilonCutoff?: number | null
  etaCutoff?: number | null
  /** Default 1. Counts every id of the row, pads included. */
  repetitionPenalty?: number | null
  encoderRepetitionPenalty?: number | null
  /** Default 1. */
  lengthPenalty?: number | null
  noRepeatNgramSize?: number | null
  encoderNoRepeatNgramSize?: number | null
  badWordsIds?: readonly (readonly number[])[] | null
  sequenceBias?: readonly SequenceBias[] | null
  renormalizeLogits?: boolean | null
  forcedBosTokenId?: number | null
  forcedEosTokenId?: number | readonly number[] | null
  removeInvalidValues?: boolean | null
  exponentialDecayLengthPenalty?: readonly [start: number, factor: number] | null
  suppressTokens?: readonly number[] | null
  beginSuppressTokens?: readonly number[] | null
  /** Default 1. */
  numReturnSequences?: number | null
  padTokenId?: number | null
  bosTokenId?: number | null
  eosTokenId?: number | readonly number[] | null
  /** Most prompt tokens that one step takes, over all rows. Default: all of them. */
  prefillChunkSize?: number | null
}

/** A configuration with every default filled in. */
export interface GenerationConfig {
  readonly maxLength: number | null
  readonly maxNewTokens: number | null
  readonly minLength: number
  readonly minNewTokens: number
  readonly earlyStopping: boolean | 'never'
  readonly maxTime: number | null
  readonly stopStrings: readonly string[]
  readonly doSample: boolean
  readonly numBeams: number
  readonly temperature: number
  readonly topH: number | null
  readonly topK: number
  readonly topP: number
  readonly minP: number | null
  readonly typicalP: number
  readonly epsilonCutoff: number
  readonly etaCutoff: number
  readonly repetitionPenalty: number
  readonly encoderRepetitionPenalty: number
  readonly lengthPenalty: number
  readonly noRepeatNgramSize: number
  readonly encoderNoRepeatNgramSize: number
  readonly badWordsIds: readonly (readonly number[])[]
  readonly sequenceBias: readonly SequenceBias[]
  readonly renormalizeLogits: boolean
  readonly forcedBosTokenId: number | null
  readonly forcedEosTokenId: readonly number[]
  readonly removeInvalidValues: boolean
  readonly exponentialDecayLengthPenalty: readonly [number, number] | null
  readonly suppressTokens: readonly number[]
  readonly beginSuppressTokens: readonly number[]
  readonly numReturnSequences: number
  readonly padTokenId: number | null
  readonly bosTokenId: number | null
  readonly eosTokenId: readonly number[]
  readonly prefillChunkSize: number | null
}

/** transformers' defaults. */
export const GENERATION_DEFAULTS: GenerationConfig = {
  maxLength: null, maxNewTokens: null, minLength: 0, minNewTokens: 0, earlyStopping: false, maxTime: null, stopStrings: [],
  doSample: false, numBeams: 1, temperature: 1, topH: null, topK: 50, topP: 1, minP: null, typicalP: 1, epsilonCutoff: 0,
  etaCutoff: 0, repetitionPenalty: 1, encoderRepetitionPenalty: 1, lengthPenalty: 1, noRepeatNgramSize: 0,
  encoderNoRepeatNgramSize: 0, badWordsIds: [], sequenceBias: [], renormalizeLogits: false, forcedBosTokenId: null,
  forcedEosTokenId: [], removeInvalidValues: false, exponentialDecayLengthPenalty: null, suppressTokens: [],
  beginSuppressTokens: [], numReturnSequences: 1, padTokenId: null, bosTokenId: null, eosTokenId: [], prefillChunkSize: null,
}

/** Only sampling reads these: setting one in the call asks for sampling unless `doSample` is set somewhere. */
const SAMPLING_FIELDS = [
  'temperature', 'topH', 'topK', 'topP', 'minP', 'typicalP', 'epsilonCutoff', 'etaCutoff',
] as const satisfies readonly GenerationField[]

/** Fields that take one value or a list and are a list once resolved. */
const LIST_FIELDS: ReadonlySet<string> = new Set(['stopStrings', 'forcedEosTokenId', 'eosTokenId'])

/** Where the values of a resolution come from, strongest first. */
export interface GenerationSources {
  /** Options of the call itself. */
  readonly call?: GenerationOptions
  /** A configuration passed beside them. */
  readonly config?: GenerationOptions
  /** The checkpoint's generation_config.json, as {@link generationConfigFromJson} reads it. */
  readonly model?: GenerationOptions
  /** The checkpoint's config.json: the last word on special tokens. */
  readonly info?: { readonly bosTokenId: number | null; readonly eosTokenIds: readonly number[]; readonly padTokenId: number | null }
}

function show(value: unknown): string {
  if (typeof value === 'string') return `'${value}'`
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

function fail(code: ErrorCode, argument: string, expected: string, received: unknown, hint?: string): never {
  throw new OctetError(code, {
    op: 'generate',
    argument,
    expected,
    received: show(received),
    ...(hint === undefined ? {} : { hint }),
  })
}

/** Checks each field that is set. Names in messages are those of the source: camelCase, or snake_case for JSON. */
function checkFields(options: Readonly<Record<string, unknown>>, code: ErrorCode, rename: (name: string) => string): void {
  for (const [name, value] of Object.entries(options)) {
    if (!isGenerationField(name) || value === undefined || value === null) continue
    const spec: FieldSpec = GENERATION_FIELDS[name]
    if (!spec.accepts(value)) fail(code, rename(name), spec.expected, value)
    if (spec.unsupported !== undefined && !spec.unsupported.neutral(value)) {
      fail('NOT_SUPPORTED', rename(name), 'not to be set', value, `remove it: ${spec.unsupported.reason}`)
    }
  }
}

/**
 * A generation_config.json object as options: snake_case becomes camelCase, nulls and fields that are not
 * transformers' own are dropped.
 *
 * @throws OctetError `INVALID_CONFIG` when a field has a value that it cannot have, `INVALID_JSON` when the root is
 * no object. A field that Octet does not support is refused when it is used, not when it is read.
 */
export function generationConfigFromJson(json: unknown): GenerationOptions {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new OctetError('INVALID_JSON', { op: 'generationConfigFromJson', argument: 'json', expected: 'an object', received: Array.isArray(json) ? 'a list' : String(json) })
  }
  const options: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(json)) {
    const name = camelCase(key)
    if (!isGenerationField(name) || value === null || snakeCase(name) !== key) continue
    const spec: FieldSpec = GENERATION_FIELDS[name]
    if (!spec.accepts(value)) fail('INVALID_CONFIG', `generation_config.json ${key}`, spec.expected, value, 'correct the field or remove it')
    options[name] = value
  }
  return options as GenerationOptions
}

/** Options as the fields of a generation_config.json; what is not set is left out. */
export function generationConfigToJson(options: GenerationOptions): Record<string, unknown> {
  const json: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (isGenerationField(name) && value !== undefined && value !== null) json[snakeCase(name)] = value
  }
  return json
}

/**
 * Merges the sources (call > config > model's file > model's config > defaults) and checks the result.
 *
 * @throws OctetError `INVALID_ARGUMENT` naming the field, `NOT_SUPPORTED` for a field that asks for what Octet
 * does not do.
 */
export function resolveGenerationConfig(sources: GenerationSources): GenerationConfig {
  const layers: Readonly<Record<string, unknown>>[] = [sources.call ?? {}, sources.config ?? {}, sources.model ?? {}].map((l) => ({ ...l }))
  for (const layer of layers) checkFields(layer, 'INVALID_ARGUMENT', (name) => name)
  const lookup = (name: string): unknown => layers.map((layer) => layer[name]).find((v) => v !== undefined && v !== null)
  const resolved: Record<string, unknown> = {}
  for (const [name, fallback] of Object.entries(GENERATION_DEFAULTS)) {
    const value = lookup(name) ?? fallback
    resolved[name] = LIST_FIELDS.has(name) && !Array.isArray(value) ? [value] : value
  }
  const info = sources.info
  if (info !== undefined) {
    resolved['padTokenId'] ??= info.padTokenId
    resolved['bosTokenId'] ??= info.bosTokenId
    if (lookup('eosTokenId') === undefined) resolved['eosTokenId'] = [...info.eosTokenIds]
  }
  if (lookup('doSample') === undefined) resolved['doSample'] = callAsksForSampling(sources.call ?? {})
  const config = resolved as unknown as GenerationConfig
  checkCombination(config)
  return config
}

function callAsksForSampling(call: GenerationOptions): boolean {
  if (call.temperature === 0) return false
  return SAMPLING_FIELDS.some((name) => call[name] !== undefined && call[name] !== null)
}

function checkCombination(c: GenerationConfig): void {
  if (c.doSample && c.temperature === 0) {
    fail('INVALID_ARGUMENT', 'temperature', 'a number > 0 with doSample', 0, 'set doSample: false to take the best token')
  }
  if (c.numReturnSequences > 1 && !c.doSample && c.numBeams === 1) {
    fail('INVALID_ARGUMENT', 'numReturnSequences', '1 with greedy decoding', c.numReturnSequences, 'set doSample: true, or numBeams of at least as many')
  }
  if (c.numBeams > 1 && c.numReturnSequences > c.numBeams) {
    fail('INVALID_ARGUMENT', 'numReturnSequences', `at most numBeams (${c.numBeams})`, c.numReturnSequences)
  }
}
