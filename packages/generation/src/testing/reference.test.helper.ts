import { resolveGenerationConfig, type GenerationOptions } from '../config/generation-config.js'
import { BeamSearch, type BeamResult } from '../engine/beam-search.js'
import { buildProcessors } from '../processors/index.js'
import { argmax, logSoftmax, sampleToken } from '../sampling/index.js'
import type { LogitsOf } from './fake-model.test.helper.js'

export interface ReferenceOptions extends GenerationOptions {
  readonly maxNewTokens: number
  readonly eosTokenId?: number[]
  readonly seed?: number
  readonly sequence?: number
}

/** One row by itself, with the whole row recomputed for each token: what any batch must give it. */
export function referenceRow(logitsOf: LogitsOf, tokens: readonly number[], options: ReferenceOptions, row: readonly number[] = tokens): number[] {
  const { seed = 0, sequence = 0, ...call } = options
  const config = resolveGenerationConfig({ call })
  const processors = buildProcessors(config, { eosTokenIds: config.eosTokenId, maxLength: row.length + options.maxNewTokens })
  const out: number[] = []
  while (out.length < options.maxNewTokens) {
    const scores = logitsOf([...tokens, ...out])
    for (const process of processors) process(scores, { ids: [...row, ...out], promptLength: row.length, sequence })
    const key = { seed, sequence, position: tokens.length + out.length }
    out.push(config.doSample ? sampleToken(scores, key) : argmax(scores))
    if (config.eosTokenId.includes(out.at(-1)!)) break
  }
  return out
}

/** Beams of one prompt by themselves. */
export function referenceBeams(logitsOf: LogitsOf, tokens: readonly number[], options: ReferenceOptions): BeamResult[] {
  const config = resolveGenerationConfig({ call: options })
  const eos = config.eosTokenId
  const search = new BeamSearch({ ...config, eosCount: eos.length, maxNewTokens: options.maxNewTokens })
  const processors = buildProcessors(config, { eosTokenIds: eos, maxLength: tokens.length + options.maxNewTokens })
  while (!search.done) {
    const scores = search.running.map((beam) => {
      const row = logSoftmax(logitsOf([...tokens, ...beam.tokens]))
      for (const process of processors) process(row, { ids: [...tokens, ...beam.tokens], promptLength: tokens.length, sequence: 0 })
      return row
    })
    const candidates = search.candidates(scores)
    search.commit(candidates, candidates.map((c) => {
      if (eos.includes(c.tokens.at(-1)!)) return { reason: 'eos' }
      return c.tokens.length >= options.maxNewTokens ? { reason: 'length' } : null
    }))
  }
  return search.results(config.numReturnSequences)
}
