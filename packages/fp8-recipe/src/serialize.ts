/** Recipes as names and as JSON. */
import { OctetError } from '@octet-llm/core'
import { show } from './fields.js'
import {
  BLOCK_FIELDS,
  CURRENT_FIELDS,
  DELAYED_FIELDS,
  DelayedScaling,
  Float8BlockScaling,
  Float8CurrentScaling,
  MXFP8_FIELDS,
  MXFP8BlockScaling,
  nvfp4Refused,
  type Recipe,
} from './recipes.js'

/** A recipe as JSON: its class name under `recipe`, and every field. */
export type RecipeJson = { readonly recipe: Recipe['name'] } & { readonly [field: string]: unknown }

const FIELDS: Readonly<Record<Recipe['name'], readonly string[]>> = {
  DelayedScaling: DELAYED_FIELDS,
  Float8CurrentScaling: CURRENT_FIELDS,
  Float8BlockScaling: BLOCK_FIELDS,
  MXFP8BlockScaling: MXFP8_FIELDS,
}

const MAKERS: Readonly<Record<Recipe['name'], (fields: object) => Recipe>> = {
  DelayedScaling: (fields) => new DelayedScaling(fields),
  Float8CurrentScaling: (fields) => new Float8CurrentScaling(fields),
  Float8BlockScaling: (fields) => new Float8BlockScaling(fields),
  MXFP8BlockScaling: (fields) => new MXFP8BlockScaling(fields),
}

/**
 * A plain object of a recipe, for a checkpoint or a config file.
 *
 * @throws OctetError `INVALID_ARGUMENT` when the recipe holds a function, which JSON cannot.
 */
export function recipeToJSON(recipe: Recipe): RecipeJson {
  const json: Record<string, unknown> = { recipe: recipe.name }
  for (const field of FIELDS[recipe.name]) {
    const value = (recipe as unknown as Record<string, unknown>)[field]
    if (typeof value === 'function') {
      throw new OctetError('INVALID_ARGUMENT', {
        op: 'recipeToJSON',
        argument: field,
        expected: 'a value that JSON can hold',
        received: 'a function',
        hint: 'save the recipe without it and pass the function again after loading',
      })
    }
    json[field] = typeof value === 'object' && value !== null ? { ...value } : value
  }
  return json as RecipeJson
}

/**
 * The recipe of a parsed JSON value. Absent fields take their defaults.
 *
 * @throws OctetError `INVALID_JSON` when the value is not a recipe, `RECIPE_NOT_SUPPORTED` for NVFP4BlockScaling,
 *   `INVALID_ARGUMENT` for an unknown field or a value out of range.
 */
export function recipeFromJSON(value: unknown): Recipe {
  const fields = typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null
  const name = fields?.['recipe']
  if (name === 'NVFP4BlockScaling') throw nvfp4Refused('recipeFromJSON')
  if (fields === null || typeof name !== 'string' || !Object.hasOwn(MAKERS, name)) {
    throw new OctetError('INVALID_JSON', {
      op: 'recipeFromJSON',
      argument: 'recipe',
      expected: `an object whose "recipe" is one of ${Object.keys(MAKERS).join(', ')}`,
      received: show(name ?? value),
    })
  }
  const { recipe: _name, ...rest } = fields
  return MAKERS[name as Recipe['name']](rest)
}

const NAMES = { delayed: 'DelayedScaling', current: 'Float8CurrentScaling', block: 'Float8BlockScaling', mxfp8: 'MXFP8BlockScaling' } as const

/** What {@link parseRecipe} takes. */
export type RecipeName = keyof typeof NAMES
export const RECIPE_NAMES = Object.keys(NAMES) as readonly RecipeName[]

/**
 * A recipe with its defaults, by the name that a command line gives: `delayed`, `current`, `block`, `mxfp8`, or the class.
 *
 * @throws OctetError `USAGE` for an unknown name, `RECIPE_NOT_SUPPORTED` for `nvfp4`.
 */
export function parseRecipe(name: string): Recipe {
  if (name === 'nvfp4' || name === 'NVFP4BlockScaling') throw nvfp4Refused('parseRecipe')
  const known = Object.hasOwn(NAMES, name) ? NAMES[name as RecipeName] : name
  if (!Object.hasOwn(MAKERS, known)) {
    throw new OctetError('USAGE', { op: 'parseRecipe', argument: 'recipe', expected: `one of ${RECIPE_NAMES.join(', ')}`, received: show(name) })
  }
  return MAKERS[known as Recipe['name']]({})
}
