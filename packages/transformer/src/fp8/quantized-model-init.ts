import { parseRecipe, type Recipe } from '@octet-llm/fp8-recipe'

import type { Fp8Inference } from './inference.js'
import { ruleOf } from './recipe-state.js'

export interface QuantizedModelInitOptions {
  /** Default true. */
  readonly enabled?: boolean
  /** A recipe or its name. */
  readonly recipe: Recipe | string
}

/** What a module's options gain. */
export interface QuantizedInit {
  readonly fp8?: Fp8Inference
}

/**
 * Calls `build` with options that make modules keep their projections in FP8 only, in the recipe's own granularity: pass
 * them on, as `new Linear({ ...init, … })`. Such a module runs in an {@link autocast} of the same recipe; without one its
 * activations are quantized by token, or 1×128 for block scaling.
 * @throws OctetError `RECIPE_NOT_SUPPORTED`, `USAGE`; what `build` throws
 */
export function quantizedModelInit<T>(options: QuantizedModelInitOptions, build: (init: QuantizedInit) => T): T {
  if (options.enabled === false) return build({})
  const recipe = typeof options.recipe === 'string' ? parseRecipe(options.recipe) : options.recipe
  const inputs = ruleOf(recipe, 'input')
  return build({
    fp8: {
      recipe,
      weights: ruleOf(recipe, 'weight'),
      inputs: inputs.granularity === 'tensor' ? { ...inputs, granularity: 'row' } : inputs,
      staticInputs: recipe.kind !== 'block',
      lmHead: false,
      dpa: recipe.fp8Dpa,
    },
  })
}
