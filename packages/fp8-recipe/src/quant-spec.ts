import { OctetError, type QuantSpec, type ScaleGranularity } from '@octet-llm/core'
import { formatDType } from './format.js'
import type { Recipe } from './recipes.js'

/** An operand of a linear layer's three products. */
export type OperandRole = 'input' | 'weight' | 'gradOutput'

/**
 * How a recipe stores an operand: 8-bit type and granularity. Gradients use the backward type of the format.
 *
 * @throws OctetError `RECIPE_NOT_SUPPORTED` for MXFP8, whose blocks of 32 have E8M0 scales and no float32 form.
 */
export function quantSpec(recipe: Recipe, role: OperandRole): QuantSpec {
  const dtype = formatDType(recipe.fp8Format, role === 'gradOutput' ? 'backward' : 'forward')
  switch (recipe.kind) {
    case 'delayed':
    case 'current':
      return { dtype, granularity: 'tensor' }
    case 'block': {
      const dim = { input: recipe.xBlockScalingDim, weight: recipe.wBlockScalingDim, gradOutput: recipe.gradBlockScalingDim }[role]
      const granularity: ScaleGranularity = dim === 1 ? 'block1x128' : 'block128x128'
      return { dtype, granularity }
    }
    case 'mxfp8':
      throw new OctetError('RECIPE_NOT_SUPPORTED', {
        op: 'quantSpec',
        argument: 'recipe',
        expected: 'float32 scales',
        received: 'MXFP8BlockScaling, whose scales are E8M0',
        hint: 'use mxfp8Scales for its codes',
      })
  }
}
