import type { Fields } from './fields.js'

/**
 * Rotary position embedding by type, with every default of transformers resolved. Base frequencies are
 * 1 / theta^(2i/headDim); the formulas of each type are in the guide of the transformer package.
 */
export type RopeConfig =
  | { readonly type: 'default'; readonly theta: number }
  | { readonly type: 'linear'; readonly theta: number; readonly factor: number }
  | {
      readonly type: 'dynamic'
      readonly theta: number
      readonly factor: number
      /** Length from which theta grows with the sequence. */
      readonly maxPositionEmbeddings: number
    }
  | {
      readonly type: 'yarn'
      readonly theta: number
      readonly factor: number
      readonly originalMaxPositionEmbeddings: number
      readonly betaFast: number
      readonly betaSlow: number
      /** Multiplies cos and sin. */
      readonly attentionFactor: number
      /** Round the bounds of the ramp outwards to whole dimensions. */
      readonly truncate: boolean
    }
  | {
      readonly type: 'llama3'
      readonly theta: number
      readonly factor: number
      readonly lowFreqFactor: number
      readonly highFreqFactor: number
      readonly originalMaxPositionEmbeddings: number
    }
  | {
      readonly type: 'longrope'
      readonly theta: number
      /** Divides each frequency of a sequence within the original length: headDim / 2 numbers. */
      readonly shortFactor: readonly number[]
      /** The same of a longer sequence. */
      readonly longFactor: readonly number[]
      readonly originalMaxPositionEmbeddings: number
      /** Multiplies cos and sin. */
      readonly attentionFactor: number
    }

const TYPES: ReadonlyMap<string, RopeConfig['type']> = new Map([
  ['default', 'default'],
  ['linear', 'linear'],
  ['dynamic', 'dynamic'],
  ['yarn', 'yarn'],
  ['llama3', 'llama3'],
  ['longrope', 'longrope'],
])

const POSITIVE = { min: 0, above: true, max: 1e6 } as const
const LENGTH = { min: 1, max: 2 ** 31 - 1 } as const

export interface RopeDefaults {
  readonly theta: number
  readonly maxPositionEmbeddings: number
  readonly headDim: number
}

/**
 * Reads one set of rope parameters.
 * @param settings `rope_parameters` of transformers 5 or `rope_scaling` of 4; undefined where there is none.
 * @param model the object that holds them, with `rope_theta` (4) and `max_position_embeddings`.
 * @param thetaKey where version 4 keeps theta.
 * @throws OctetError `INVALID_CONFIG`.
 */
export function readRope(settings: Fields | undefined, model: Fields, thetaKey: string, defaults: RopeDefaults): RopeConfig {
  const thetaRange = { min: 1, above: true, max: 1e12 } as const
  const theta = settings?.number('rope_theta', thetaRange) ?? model.number(thetaKey, thetaRange) ?? defaults.theta
  for (const fields of [settings, model]) {
    const partial = fields?.number('partial_rotary_factor')
    if (partial !== undefined && partial !== 1) fields!.fail('partial_rotary_factor', '1', String(partial))
  }
  if (settings === undefined) return { type: 'default', theta }
  // Version 4 first called it `type`; where a file has both, `rope_type` counts.
  const typeKey = settings.value('rope_type') === undefined ? 'type' : 'rope_type'
  const type = settings.choice(typeKey, TYPES) ?? 'default'
  switch (type) {
    case 'default':
      return { type, theta }
    case 'linear':
      return { type, theta, factor: settings.requiredNumber('factor', POSITIVE) }
    case 'dynamic':
      // Theta grows by the power dim / (dim - 2).
      if (defaults.headDim <= 2) settings.fail(typeKey, 'another type for a head_dim of 2', 'dynamic')
      return { type, theta, factor: settings.requiredNumber('factor', POSITIVE), maxPositionEmbeddings: defaults.maxPositionEmbeddings }
    case 'yarn':
      return readYarn(settings, theta, defaults.maxPositionEmbeddings)
    case 'llama3':
      return readLlama3(settings, theta, defaults.maxPositionEmbeddings)
    case 'longrope':
      return readLongrope(settings, model, theta, defaults)
  }
}

function readLlama3(settings: Fields, theta: number, maxPositionEmbeddings: number): RopeConfig {
  const lowFreqFactor = settings.requiredNumber('low_freq_factor', POSITIVE)
  const highFreqFactor = settings.requiredNumber('high_freq_factor', POSITIVE)
  // The band between the two is blended by a division by their difference.
  if (highFreqFactor <= lowFreqFactor) settings.fail('high_freq_factor', `a number above low_freq_factor ${lowFreqFactor}`, String(highFreqFactor))
  const originalMaxPositionEmbeddings = settings.integer('original_max_position_embeddings', LENGTH) ?? maxPositionEmbeddings
  return { type: 'llama3', theta, factor: settings.requiredNumber('factor', POSITIVE), lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings }
}

function readLongrope(settings: Fields, model: Fields, theta: number, { headDim, maxPositionEmbeddings }: RopeDefaults): RopeConfig {
  // Files of version 4 keep the original length beside max_position_embeddings.
  const key = 'original_max_position_embeddings'
  const originalMaxPositionEmbeddings = settings.integer(key, LENGTH) ?? model.integer(key, LENGTH) ?? settings.fail(key, 'a whole number', 'nothing')
  const factors = (name: string): readonly number[] => {
    const isFactor = (item: unknown): item is number => typeof item === 'number' && item > 0 && item <= POSITIVE.max
    const list = settings.list(name, 'positive numbers', isFactor) ?? settings.fail(name, `${headDim / 2} numbers`, 'nothing')
    return list.length === headDim / 2 ? list : settings.fail(name, `${headDim / 2} numbers, half of head_dim`, String(list.length))
  }
  const factor = settings.number('factor', POSITIVE) ?? maxPositionEmbeddings / originalMaxPositionEmbeddings
  // A length of 1 has no logarithm to divide by: transformers fails there, and nothing is stretched here.
  const stretched = factor > 1 && originalMaxPositionEmbeddings > 1
  const attentionFactor = settings.number('attention_factor', POSITIVE) ?? (stretched ? Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositionEmbeddings)) : 1)
  return { type: 'longrope', theta, shortFactor: factors('short_factor'), longFactor: factors('long_factor'), originalMaxPositionEmbeddings, attentionFactor }
}

function readYarn(settings: Fields, theta: number, maxPositionEmbeddings: number): RopeConfig {
  const originalMaxPositionEmbeddings = settings.integer('original_max_position_embeddings', LENGTH) ?? maxPositionEmbeddings
  const factor = settings.number('factor', POSITIVE) ?? maxPositionEmbeddings / originalMaxPositionEmbeddings
  const betaFast = settings.number('beta_fast', POSITIVE) ?? 32
  const betaSlow = settings.number('beta_slow', POSITIVE) ?? 1
  if (betaFast < betaSlow) settings.fail('beta_fast', `a number of at least beta_slow ${betaSlow}`, String(betaFast))
  const attentionFactor = settings.number('attention_factor', POSITIVE) ?? yarnAttentionFactor(factor, settings.number('mscale'), settings.number('mscale_all_dim'))
  return { type: 'yarn', theta, factor, originalMaxPositionEmbeddings, betaFast, betaSlow, attentionFactor, truncate: settings.boolean('truncate') ?? true }
}

/** YaRN's temperature as transformers computes it (`_compute_yarn_parameters`): 0.1 m ln f + 1. */
function yarnAttentionFactor(factor: number, mscale: number | undefined, mscaleAllDim: number | undefined): number {
  const temperature = (scale: number): number => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1)
  // Python's truth: a zero counts as absent.
  if (mscale && mscaleAllDim) return temperature(mscale) / temperature(mscaleAllDim)
  return temperature(1)
}
