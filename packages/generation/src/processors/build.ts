import type { GenerationConfig } from '../config/generation-config.js'
import * as constraints from './constraints.js'
import * as penalties from './penalties.js'
import type { LogitsProcessor, PrefixAllowedTokens } from './types.js'
import * as warpers from './warpers.js'

/** What a list of processors needs beside the configuration. */
export interface ProcessorOptions {
  /** Ids that end a sequence; empty where EOS is ignored. */
  readonly eosTokenIds: readonly number[]
  /** Prompt (pads included) plus new tokens of the row. */
  readonly maxLength: number
  /** The caller's own processors: they run after all built-in ones but the sampling warpers. */
  readonly user?: readonly LogitsProcessor[]
  readonly prefixAllowedTokens?: PrefixAllowedTokens
}

/**
 * The processors that a configuration asks for, in transformers' order: sequence bias → encoder repetition →
 * repetition → no-repeat n-gram → encoder n-gram → bad words → min length → min new tokens → allowed prefixes →
 * forced BOS, EOS → invalid values → decaying length → suppress → begin-suppress → the caller's own → (sampling
 * only) temperature → top-h → top-k → top-p → min-p → typical → epsilon → eta → renormalise.
 */
export function buildProcessors(config: GenerationConfig, options: ProcessorOptions): LogitsProcessor[] {
  return [
    ...penaltiesOf(config, options),
    ...constraintsOf(config, options),
    ...(options.user ?? []),
    ...(config.doSample ? warpersOf(config, options.eosTokenIds) : []),
    ...(config.renormalizeLogits ? [constraints.renormalize()] : []),
  ]
}

function penaltiesOf(c: GenerationConfig, { eosTokenIds }: ProcessorOptions): LogitsProcessor[] {
  const list: LogitsProcessor[] = []
  if (c.sequenceBias.length > 0) list.push(penalties.sequenceBias(c.sequenceBias))
  if (c.encoderRepetitionPenalty !== 1) list.push(penalties.encoderRepetitionPenalty(c.encoderRepetitionPenalty))
  if (c.repetitionPenalty !== 1) list.push(penalties.repetitionPenalty(c.repetitionPenalty))
  if (c.noRepeatNgramSize > 0) list.push(penalties.noRepeatNgram(c.noRepeatNgramSize))
  if (c.encoderNoRepeatNgramSize > 0) list.push(penalties.encoderNoRepeatNgram(c.encoderNoRepeatNgramSize))
  if (c.badWordsIds.length > 0) list.push(penalties.badWords(c.badWordsIds, eosTokenIds))
  return list
}

function constraintsOf(c: GenerationConfig, o: ProcessorOptions): LogitsProcessor[] {
  const eos = o.eosTokenIds
  const list: LogitsProcessor[] = []
  // As with the maximum, the count of new tokens replaces that of all.
  if (c.minNewTokens > 0 && eos.length > 0) list.push(constraints.minNewTokens(c.minNewTokens, eos))
  else if (c.minLength > 0 && eos.length > 0) list.push(constraints.minLength(c.minLength, eos))
  if (o.prefixAllowedTokens !== undefined) list.push(constraints.prefixAllowedTokens(o.prefixAllowedTokens))
  if (c.forcedBosTokenId !== null) list.push(constraints.forcedBos(c.forcedBosTokenId))
  if (c.forcedEosTokenId.length > 0) list.push(constraints.forcedEos(o.maxLength, c.forcedEosTokenId))
  if (c.removeInvalidValues) list.push(constraints.removeInvalidValues())
  if (c.exponentialDecayLengthPenalty !== null && eos.length > 0) {
    list.push(penalties.exponentialDecayLength(...c.exponentialDecayLengthPenalty, eos))
  }
  if (c.suppressTokens.length > 0) list.push(constraints.suppressTokens(c.suppressTokens))
  if (c.beginSuppressTokens.length > 0) {
    list.push(constraints.beginSuppressTokens(c.beginSuppressTokens, c.forcedBosTokenId))
  }
  return list
}

function warpersOf(c: GenerationConfig, eosTokenIds: readonly number[]): LogitsProcessor[] {
  // Beams need one token beside every EOS to go on with.
  const minKeep = c.numBeams > 1 ? Math.max(2, eosTokenIds.length + 1) : 1
  const list: LogitsProcessor[] = []
  if (c.temperature !== 1) list.push(warpers.temperature(c.temperature))
  if (c.topH !== null) list.push(warpers.topH(c.topH))
  if (c.topK > 0) list.push(warpers.topK(c.topK, minKeep))
  if (c.topP < 1) list.push(warpers.topP(c.topP, minKeep))
  if (c.minP !== null) list.push(warpers.minP(c.minP, minKeep))
  if (c.typicalP < 1) list.push(warpers.typicalP(c.typicalP, minKeep))
  if (c.epsilonCutoff > 0) list.push(warpers.epsilonCutoff(c.epsilonCutoff, minKeep))
  if (c.etaCutoff > 0) list.push(warpers.etaCutoff(c.etaCutoff, minKeep))
  return list
}

/** What the device's sampling op does by itself: these warpers, in this order, then the draw. */
export interface DeviceSampling {
  readonly temperature: number
  /** 0: off. */
  readonly topK: number
  readonly topP: number
  /** 0: off. */
  readonly minP: number
}

/**
 * The device op's settings when nothing of the configuration needs scores on the host, else null.
 * Greedy decoding without processors needs only an argmax: `'argmax'`.
 */
export function deviceSelection(config: GenerationConfig, options: ProcessorOptions): DeviceSampling | 'argmax' | null {
  const host = [...penaltiesOf(config, options), ...constraintsOf(config, options), ...(options.user ?? [])]
  if (host.length > 0 || config.numBeams > 1) return null
  if (!config.doSample) return 'argmax'
  const plain = config.topH === null && config.typicalP === 1 && config.epsilonCutoff === 0 && config.etaCutoff === 0
  return plain ? { temperature: config.temperature, topK: config.topK, topP: config.topP, minP: config.minP ?? 0 } : null
}
