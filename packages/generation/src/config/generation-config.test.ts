import { OctetError } from '@octet-llm/core'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { camelCase, GENERATION_FIELDS, isGenerationField, snakeCase } from './fields.js'
import {
  GENERATION_DEFAULTS, generationConfigFromJson, generationConfigToJson, resolveGenerationConfig, type GenerationOptions,
} from './generation-config.js'

function errorOf(fn: () => unknown): OctetError {
  try {
    fn()
  } catch (error) {
    if (error instanceof OctetError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}
const info = { bosTokenId: 2, eosTokenIds: [1, 107], padTokenId: 0 }

describe('names', () => {
  it('goes from camelCase to snake_case and back for every field', () => {
    for (const name of Object.keys(GENERATION_FIELDS)) {
      expect(snakeCase(name)).toMatch(/^[a-z0-9_]+$/)
      expect(camelCase(snakeCase(name))).toBe(name)
    }
    expect(snakeCase('noRepeatNgramSize')).toBe('no_repeat_ngram_size')
    expect(camelCase('eos_token_id')).toBe('eosTokenId')
    expect(isGenerationField('toString')).toBe(false)
  })

  it('has a default for every field that changes the result, and only for those', () => {
    for (const [name, spec] of Object.entries(GENERATION_FIELDS)) {
      const idle = 'unsupported' in spec || spec === GENERATION_FIELDS.useCache
      expect(Object.hasOwn(GENERATION_DEFAULTS, name), name).toBe(!idle)
    }
  })
})

describe('resolveGenerationConfig', () => {
  it("has transformers' defaults", () => {
    expect(resolveGenerationConfig({})).toEqual(GENERATION_DEFAULTS)
    expect(GENERATION_DEFAULTS).toMatchObject({
      doSample: false, numBeams: 1, temperature: 1, topK: 50, topP: 1, repetitionPenalty: 1, lengthPenalty: 1, noRepeatNgramSize: 0,
      earlyStopping: false, numReturnSequences: 1,
    })
  })

  it('lets the call win over the passed config, that over the file, that over config.json', () => {
    const sources = { call: { topK: 1 }, config: { topK: 2, topP: 0.2 }, model: { topK: 3, topP: 0.3, minP: 0.4, eosTokenId: 5 }, info }
    expect(resolveGenerationConfig(sources)).toMatchObject({ topK: 1, topP: 0.2, minP: 0.4, eosTokenId: [5], padTokenId: 0, bosTokenId: 2 })
    expect(resolveGenerationConfig({ info }).eosTokenId).toEqual([1, 107])
    expect(resolveGenerationConfig({ model: { padTokenId: 9 }, info }).padTokenId).toBe(9)
  })

  it('takes null and undefined for not set, and an empty EOS list for none', () => {
    expect(resolveGenerationConfig({ call: { topK: null, topP: undefined }, model: { topK: 7 } })).toMatchObject({ topK: 7, topP: 1 })
    expect(resolveGenerationConfig({ call: { eosTokenId: [] }, info }).eosTokenId).toEqual([])
  })

  it('makes lists of single values', () => {
    expect(resolveGenerationConfig({ call: { eosTokenId: 3, stopStrings: 'END', forcedEosTokenId: 4 } }))
      .toMatchObject({ eosTokenId: [3], stopStrings: ['END'], forcedEosTokenId: [4] })
    expect(resolveGenerationConfig({ call: { eosTokenId: [3, 4] } }).eosTokenId).toEqual([3, 4])
  })

  it('samples when the call sets what only sampling reads, unless doSample is set anywhere', () => {
    for (const call of [{ temperature: 0.8 }, { topP: 0.9 }, { topK: 5 }, { minP: 0.1 }, { typicalP: 0.9 }, { topH: 0.4 }, { etaCutoff: 0.1 }, { epsilonCutoff: 0.1 }]) {
      expect(resolveGenerationConfig({ call }).doSample).toBe(true)
      expect(resolveGenerationConfig({ config: call, model: call }).doSample).toBe(false)
      expect(resolveGenerationConfig({ call, model: { doSample: false } }).doSample).toBe(false)
      expect(resolveGenerationConfig({ call: { ...call, doSample: false } }).doSample).toBe(false)
    }
    expect(resolveGenerationConfig({ call: { temperature: 0, topK: 5 } }).doSample).toBe(false)
    expect(resolveGenerationConfig({ call: { repetitionPenalty: 2 } }).doSample).toBe(false)
    expect(resolveGenerationConfig({ model: { doSample: true } }).doSample).toBe(true)
  })

  it.each<[string, GenerationOptions]>([
    ['maxNewTokens', { maxNewTokens: 0 }], ['maxNewTokens', { maxNewTokens: 1.5 }], ['maxLength', { maxLength: -1 }],
    ['temperature', { temperature: -1 }], ['temperature', { temperature: NaN }], ['topP', { topP: 1.1 }], ['topK', { topK: -1 }],
    ['minP', { minP: 2 }], ['topH', { topH: 0 }], ['typicalP', { typicalP: 0 }], ['epsilonCutoff', { epsilonCutoff: 1 }],
    ['etaCutoff', { etaCutoff: -0.1 }], ['repetitionPenalty', { repetitionPenalty: 0 }], ['lengthPenalty', { lengthPenalty: Infinity }],
    ['noRepeatNgramSize', { noRepeatNgramSize: -1 }], ['numBeams', { numBeams: 0 }], ['maxTime', { maxTime: 0 }],
    ['stopStrings', { stopStrings: '' }], ['stopStrings', { stopStrings: ['a', ''] }], ['eosTokenId', { eosTokenId: [1.5] }],
    ['badWordsIds', { badWordsIds: [[]] }], ['badWordsIds', { badWordsIds: [[-1]] }], ['sequenceBias', { sequenceBias: [[[1], NaN]] }],
    ['exponentialDecayLengthPenalty', { exponentialDecayLengthPenalty: [1.5, 1] }], ['prefillChunkSize', { prefillChunkSize: 0 }],
    ['earlyStopping', { earlyStopping: 'always' as 'never' }], ['doSample', { doSample: 1 as unknown as boolean }],
    ['numReturnSequences', { numReturnSequences: 2 }], ['numReturnSequences', { numReturnSequences: 4, numBeams: 3 }],
    ['temperature', { temperature: 0, doSample: true }],
  ])('names %s when it cannot be %o', (argument, call) => {
    expect(errorOf(() => resolveGenerationConfig({ call }))).toMatchObject({ code: 'INVALID_ARGUMENT', op: 'generate', argument })
  })

  it('accepts several sequences where they can differ', () => {
    expect(resolveGenerationConfig({ call: { numReturnSequences: 3, doSample: true } }).numReturnSequences).toBe(3)
    expect(resolveGenerationConfig({ call: { numReturnSequences: 3, numBeams: 3 } }).numBeams).toBe(3)
  })

  it('refuses what Octet does not do, with the reason, but not its neutral value', () => {
    for (const [name, value, neutral] of [
      ['guidanceScale', 2, 1], ['numBeamGroups', 2, 1], ['penaltyAlpha', 0.6, 0], ['watermarkingConfig', {}, null], ['dolaLayers', 'high', null],
      ['forceWordsIds', [[1]], null], ['constraints', [1], null], ['lowMemory', true, false], ['tokenHealing', true, false],
      ['promptLookupNumTokens', 3, 0], ['outputScores', true, false], ['diversityPenalty', 1, 0], ['useMtp', true, false],
    ] as const) {
      const error = errorOf(() => resolveGenerationConfig({ model: { [name]: value } as GenerationOptions }))
      expect(error).toMatchObject({ code: 'NOT_SUPPORTED', argument: name })
      expect(error.hint).toMatch(/^remove it: ./)
      expect(() => resolveGenerationConfig({ model: { [name]: neutral } as GenerationOptions })).not.toThrow()
    }
  })
})

describe('generation_config.json', () => {
  it.each(['fairy-gemma', 'fairy-llama'])('reads the one of %s', (name) => {
    const path = new URL(`../../../../fixtures/${name}/generation_config.json`, import.meta.url)
    const options = generationConfigFromJson(JSON.parse(readFileSync(path, 'utf8')))
    expect(resolveGenerationConfig({ model: options })).toMatchObject({ eosTokenId: [1], padTokenId: name === 'fairy-gemma' ? 0 : 5 })
  })

  it('drops nulls and what is not a field, and writes back what it read', () => {
    const json = { _from_model_config: true, transformers_version: '5.0', topK: 3, top_k: 5, top_p: null, eos_token_id: [1, 107], cache_implementation: 'hybrid', mystery: 1 }
    const options = generationConfigFromJson(json)
    expect(options).toEqual({ topK: 5, eosTokenId: [1, 107], cacheImplementation: 'hybrid' })
    expect(generationConfigToJson(options)).toEqual({ top_k: 5, eos_token_id: [1, 107], cache_implementation: 'hybrid' })
    expect(generationConfigToJson({ topK: 5, topP: null })).toEqual({ top_k: 5 })
  })

  it('names a field in snake_case and the file when its value cannot be', () => {
    expect(errorOf(() => generationConfigFromJson({ top_p: 'high' }))).toMatchObject({ code: 'INVALID_CONFIG', argument: 'generation_config.json top_p' })
    for (const root of [null, [], 'text', 3]) expect(errorOf(() => generationConfigFromJson(root)).code).toBe('INVALID_JSON')
  })

  it('reads an unsupported field and refuses it only when it is used', () => {
    const options = generationConfigFromJson({ penalty_alpha: 0.6 })
    expect(errorOf(() => resolveGenerationConfig({ model: options }))).toMatchObject({ code: 'NOT_SUPPORTED', argument: 'penaltyAlpha' })
  })
})
