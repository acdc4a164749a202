import { OctetError } from '@octet-llm/core'
import { Float8BlockScaling, parseRecipe, quantSpec, recipeFromJSON, type QuantParams, type Recipe } from '@octet-llm/fp8-recipe'

import type { QuantizeRule } from '../quantized-storage.js'

export interface Fp8InferenceOptions {
  /** A recipe, or its name; the name `block` has float32 scales. Default: weights by row, activations by token. */
  readonly recipe?: Recipe | string
  /** The output head in FP8 too. Default false. */
  readonly fp8LmHead?: boolean
}

/** `true` and `{}` are the default; a recipe or its name is short for `{ recipe }`; `false` is none. */
export type Fp8Option = boolean | string | Recipe | Fp8InferenceOptions

/** How the linears of a model are quantized for inference. Nothing in it depends on batch-mates, pads or later tokens. */
export interface Fp8Inference {
  /** Undefined: the default. */
  readonly recipe: Recipe | undefined
  readonly weights: QuantizeRule
  /** Of activations without a static scale: by token or 1×128. */
  readonly inputs: QuantizeRule
  /** A calibrated module uses its static scale. */
  readonly staticInputs: boolean
  readonly lmHead: boolean
  /** Queries, keys and values of attention in FP8 too. Default false. */
  readonly dpa?: boolean
}

/**
 * The inference rules: weights by row from their own values, 128×128 for block scaling, by tensor for delayed and current
 * scaling with calibrated activations; activations by a static scale where calibrated, else by token, 1×128 for block scaling.
 * @param calibrated static input scales are at hand
 * @throws OctetError `RECIPE_NOT_CALIBRATED` for DelayedScaling without them; `RECIPE_NOT_SUPPORTED`, `USAGE`
 */
export function resolveFp8(option: Fp8Option | undefined, calibrated: boolean): Fp8Inference | undefined {
  if (option === undefined || option === false) return undefined
  const options = normalize(option)
  const recipe = typeof options.recipe === 'string' ? recipeNamed(options.recipe) : options.recipe
  const lmHead = options.fp8LmHead ?? false
  const byToken: QuantizeRule = { granularity: 'row' }
  if (recipe === undefined) return { recipe, weights: byToken, inputs: byToken, staticInputs: true, lmHead }
  refuseFp8Mha(recipe)
  const dpa = recipe.fp8Dpa
  switch (recipe.kind) {
    case 'delayed':
      if (!calibrated) throw notCalibrated('no static scales')
      return { recipe, weights: { granularity: 'tensor' }, inputs: byToken, staticInputs: true, lmHead, dpa }
    case 'current': {
      const weights: QuantizeRule = { granularity: calibrated ? 'tensor' : 'row', ...ruleOf(recipe.fp8QuantFwdWeight) }
      return { recipe, weights, inputs: { ...byToken, ...ruleOf(recipe.fp8QuantFwdInp) }, staticInputs: true, lmHead, dpa }
    }
    case 'block': {
      const [weights, inputs] = [quantSpec(recipe, 'weight').granularity, quantSpec(recipe, 'input').granularity]
      if (inputs === 'block128x128') {
        throw new OctetError('RECIPE_NOT_SUPPORTED', { op: 'resolveFp8', argument: 'recipe.xBlockScalingDim', expected: '1 at inference, so that a token does not depend on the others', received: '2' })
      }
      return { recipe, weights: { granularity: weights, ...ruleOf(recipe.fp8QuantFwdWeight) }, inputs: { granularity: inputs, ...ruleOf(recipe.fp8QuantFwdInp) }, staticInputs: false, lmHead }
    }
    case 'mxfp8':
      throw new OctetError('RECIPE_NOT_SUPPORTED', { op: 'resolveFp8', argument: 'recipe', expected: 'float32 scales', received: 'MXFP8BlockScaling, whose scales are E8M0', hint: 'use Float8BlockScaling' })
  }
}

/** @throws OctetError `RECIPE_NOT_SUPPORTED` */
export function refuseFp8Mha(recipe: Recipe): void {
  if (!recipe.fp8Mha) return
  throw new OctetError('RECIPE_NOT_SUPPORTED', { op: 'fp8', argument: 'recipe.fp8Mha', expected: 'false: the output of attention is not kept in FP8', received: 'true', hint: 'fp8Dpa quantizes queries, keys and values' })
}

/**
 * `block` by its name has scales that put a block's largest value at the largest code, whose neighbours are the finest:
 * a tenth less KL divergence than with the powers of two that Float8BlockScaling has by default.
 */
function recipeNamed(name: string): Recipe {
  return name === 'block' ? new Float8BlockScaling({ useF32Scales: true }) : parseRecipe(name)
}

function ruleOf(params: QuantParams): Pick<QuantizeRule, 'powerOf2' | 'epsilon'> {
  return { powerOf2: params.power2Scale, epsilon: params.amaxEpsilon }
}

/**
 * The options that an exported checkpoint was quantized with, for a load that asks for FP8 and names no recipe.
 * @param config config.json as it was parsed
 * @throws OctetError as recipeFromJSON
 */
export function savedFp8(option: Fp8Option | undefined, config: Readonly<Record<string, unknown>>): Fp8Option | undefined {
  const saved = config['octet_fp8']
  const asked = option === true ? {} : option
  if (typeof asked !== 'object' || 'kind' in asked || asked.recipe !== undefined || typeof saved !== 'object' || saved === null) return option
  const { recipe, fp8LmHead } = saved as { recipe?: unknown; fp8LmHead?: unknown }
  return { ...(recipe === null || recipe === undefined ? {} : { recipe: recipeFromJSON(recipe) }), fp8LmHead: asked.fp8LmHead ?? fp8LmHead === true }
}

/** @throws OctetError `RECIPE_NOT_CALIBRATED` */
export function notCalibrated(received: string): OctetError {
  return new OctetError('RECIPE_NOT_CALIBRATED', {
    op: 'fp8',
    argument: 'recipe',
    expected: 'static scales of all linears for DelayedScaling',
    received,
    hint: 'make them with `octet quantize --recipe delayed --calibrate FILE`, or use another recipe',
  })
}

function normalize(option: Exclude<Fp8Option, false>): Fp8InferenceOptions {
  if (option === true) return {}
  if (typeof option === 'string' || 'kind' in option) return { recipe: option }
  return option
}
