/**
 * Every field of transformers' GenerationConfig (5.18) in camelCase: what it accepts, and what Octet does with it.
 * The JSON name is the snake_case of the key. The command line derives its flags from this table.
 */

/** How a value is written: on the command line `ids` is a comma list, `json` is JSON text. */
export type FieldKind = 'int' | 'number' | 'boolean' | 'ids' | 'strings' | 'earlyStopping' | 'json'

export interface FieldSpec {
  readonly kind: FieldKind
  /** Accepted values, as a reader of an error sees them. */
  readonly expected: string
  readonly accepts: (value: unknown) => boolean
  /** Why a value other than these neutral ones is refused with NOT_SUPPORTED. */
  readonly unsupported?: { readonly neutral: (value: unknown) => boolean; readonly reason: string }
}

const isInt = (v: unknown): v is number => Number.isSafeInteger(v)
const isNumber = (v: unknown): v is number => typeof v === 'number' && Number.isFinite(v)
const isIntList = (v: unknown): v is number[] => Array.isArray(v) && v.every(isInt)

function int(min: number): FieldSpec {
  return { kind: 'int', expected: `a whole number ≥ ${min}`, accepts: (v) => isInt(v) && v >= min }
}

function number(expected: string, test: (v: number) => boolean): FieldSpec {
  return { kind: 'number', expected, accepts: (v) => isNumber(v) && test(v) }
}

const boolean: FieldSpec = { kind: 'boolean', expected: 'true or false', accepts: (v) => typeof v === 'boolean' }
const id: FieldSpec = { kind: 'int', expected: 'a token id', accepts: isInt }
const ids: FieldSpec = { kind: 'ids', expected: 'a token id or a list of them', accepts: (v) => isInt(v) || isIntList(v) }
const idList: FieldSpec = { kind: 'ids', expected: 'a list of token ids', accepts: isIntList }
const positive = number('a number > 0', (v) => v > 0)

/** Accepted and without effect here, since they tune another engine's cache, compiler or drafts. */
const ignored: FieldSpec = { kind: 'json', expected: 'any value', accepts: () => true }

function unsupported(reason: string, neutral: readonly unknown[]): FieldSpec {
  return { ...ignored, unsupported: { neutral: (v) => neutral.includes(v), reason } }
}

const isIdLists = (v: unknown): boolean =>
  Array.isArray(v) && v.every((w) => isIntList(w) && w.length > 0 && w.every((i) => i >= 0))
const isBiases = (v: unknown): boolean =>
  Array.isArray(v) &&
  v.every((b) => Array.isArray(b) && b.length === 2 && isIdLists([b[0]]) && typeof b[1] === 'number' && !Number.isNaN(b[1]))
const isStrings = (v: unknown): boolean =>
  (typeof v === 'string' && v !== '') || (Array.isArray(v) && v.every((s) => typeof s === 'string' && s !== ''))


const earlyStopping: FieldSpec = { kind: 'earlyStopping', expected: "true, false or 'never'", accepts: (v) => typeof v === 'boolean' || v === 'never' }
const strings: FieldSpec = { kind: 'strings', expected: 'a non-empty string or a list of them', accepts: isStrings }
const idLists: FieldSpec = { kind: 'json', expected: 'a list of lists of token ids', accepts: isIdLists }
const biases: FieldSpec = { kind: 'json', expected: 'a list of [token ids, bias] pairs', accepts: isBiases }
const decay: FieldSpec = {
  kind: 'json',
  expected: 'a pair [first token, factor > 0]',
  accepts: (v) => Array.isArray(v) && v.length === 2 && isInt(v[0]) && isNumber(v[1]) && v[1] > 0,
}

const OUTPUTS = 'generation returns tokens, texts and beam scores only; `logits` gives the rest'
const ASSISTED = 'assisted decoding is not part of Octet'
const DIVERSE = 'transformers has moved diverse beam search out of its library'

export const GENERATION_FIELDS = {
  maxLength: int(1),
  maxNewTokens: int(1),
  minLength: int(0),
  minNewTokens: int(0),
  earlyStopping,
  maxTime: positive,
  stopStrings: strings,
  doSample: boolean,
  numBeams: int(1),
  temperature: number('a number ≥ 0', (v) => v >= 0),
  topH: number('a number in (0, 1]', (v) => v > 0 && v <= 1),
  topK: int(0),
  topP: number('a number in [0, 1]', (v) => v >= 0 && v <= 1),
  minP: number('a number in [0, 1]', (v) => v >= 0 && v <= 1),
  typicalP: number('a number in (0, 1]', (v) => v > 0 && v <= 1),
  epsilonCutoff: number('a number in [0, 1)', (v) => v >= 0 && v < 1),
  etaCutoff: number('a number in [0, 1)', (v) => v >= 0 && v < 1),
  repetitionPenalty: positive,
  encoderRepetitionPenalty: positive,
  lengthPenalty: number('a finite number', () => true),
  noRepeatNgramSize: int(0),
  encoderNoRepeatNgramSize: int(0),
  badWordsIds: idLists,
  sequenceBias: biases,
  renormalizeLogits: boolean,
  forcedBosTokenId: id,
  forcedEosTokenId: ids,
  removeInvalidValues: boolean,
  exponentialDecayLengthPenalty: decay,
  suppressTokens: idList,
  beginSuppressTokens: idList,
  numReturnSequences: int(1),
  padTokenId: id,
  bosTokenId: id,
  eosTokenId: ids,
  prefillChunkSize: int(1),
  guidanceScale: unsupported('classifier-free guidance needs a second, unconditional run', [1]),
  watermarkingConfig: unsupported('watermarking is not part of Octet', []),
  numBeamGroups: unsupported(DIVERSE, [1]),
  diversityPenalty: unsupported(DIVERSE, [0]),
  penaltyAlpha: unsupported('transformers has moved contrastive search out of its library', [0]),
  dolaLayers: unsupported('transformers has moved DoLa decoding out of its library', []),
  constraints: unsupported('transformers has moved constrained beam search out of its library', []),
  forceWordsIds: unsupported('transformers has moved constrained beam search out of its library', []),
  lowMemory: unsupported('transformers has removed sequential beam search', [false]),
  tokenHealing: unsupported('token healing is not part of Octet', [false]),
  promptLookupNumTokens: unsupported(ASSISTED, [0]),
  useMtp: unsupported('multi-token prediction heads are not loaded', [false]),
  outputScores: unsupported(OUTPUTS, [false]),
  outputLogits: unsupported(OUTPUTS, [false]),
  outputAttentions: unsupported(OUTPUTS, [false]),
  outputHiddenStates: unsupported(OUTPUTS, [false]),
  returnDictInGenerate: ignored,
  decoderStartTokenId: ignored,
  useCache: ignored,
  cacheImplementation: ignored,
  cacheConfig: ignored,
  maxCacheLen: ignored,
  returnLegacyCache: ignored,
  compileConfig: ignored,
  disableCompile: ignored,
  continuousBatchingConfig: ignored,
  isAssistant: ignored,
  numAssistantTokens: ignored,
  numAssistantTokensSchedule: ignored,
  assistantConfidenceThreshold: ignored,
  assistantEarlyExit: ignored,
  assistantLookbehind: ignored,
  targetLookbehind: ignored,
  assistantEnsembleWeight: ignored,
  speculationType: ignored,
  maxMatchingNgramSize: ignored,
  generationKwargs: ignored,
} as const satisfies Record<string, FieldSpec>

export type GenerationField = keyof typeof GENERATION_FIELDS

export function isGenerationField(name: string): name is GenerationField {
  return Object.hasOwn(GENERATION_FIELDS, name)
}

/** `no_repeat_ngram_size` → `noRepeatNgramSize` */
export function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase())
}

/** `noRepeatNgramSize` → `no_repeat_ngram_size` */
export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)
}
