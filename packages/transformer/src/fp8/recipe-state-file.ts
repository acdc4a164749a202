import { OctetError, formatShape, type Shape } from '@octet-llm/core'
import type { DelayedScaling, DelayedState } from '@octet-llm/fp8-recipe'
import type { Tensor } from '@octet-llm/kernels'

import type { Linear } from '../linear.js'
import { fromDevice, type CheckpointTensor } from './export.js'

/** A layer or a model: its projections by name. */
export interface WithLinears {
  linears(): readonly (readonly [name: string, linear: Linear])[]
}

/** An open safetensors file, or anything with named tensors. */
export interface RecipeStateReader {
  readonly tensors: ReadonlyMap<string, { readonly shape: Shape }>
  readFloat32(name: string): Promise<Float32Array>
}

const ROLES = ['input', 'weight'] as const
type Role = (typeof ROLES)[number]

/**
 * The delayed scales of a layer or a model as plain float32 tensors, for a safetensors writer: for every projection that
 * has run under DelayedScaling `<name>.input.scale` [1], `<name>.input.amax_history` [L], and the same of `weight`. What is
 * in flight is part of it. The recipe is saved apart (`recipeToJSON`).
 */
export function exportRecipeState(module: WithLinears): CheckpointTensor[] {
  return module.linears().flatMap(([name, { recipeState }]) =>
    ROLES.flatMap((role) => {
      const state = recipeState[role]
      return state === undefined ? [] : ([['scale', state.scale], ['amax_history', state.amaxHistory]] as [string, Tensor][]).map(([part, tensor]) => fromDevice(`${name}.${role}.${part}`, tensor))
    }),
  )
}

/**
 * Takes the delayed scales that {@link exportRecipeState} saved: steps under `recipe` go on as if they had never stopped.
 * Projections that the file does not name are left as they are.
 * @param recipe the object that the next autocasts get
 * @throws OctetError `CHECKPOINT_MISMATCH` listing what does not fit; nothing has changed then
 */
export async function importRecipeState(module: WithLinears, recipe: DelayedScaling, file: RecipeStateReader): Promise<void> {
  const linears = new Map(module.linears())
  const shapes: Readonly<Record<string, Shape>> = { scale: [1], amax_history: [recipe.amaxHistoryLen] }
  const found = new Set<string>()
  const faults: string[] = []
  for (const [name, { shape }] of file.tensors) {
    const [, linear, , part] = /^(.+)\.(input|weight)\.(scale|amax_history)$/.exec(name) ?? []
    if (linear === undefined || !linears.has(linear)) faults.push(`the module has no ${name.slice(0, 80)}`)
    else if (formatShape(shape) !== formatShape(shapes[part!]!)) faults.push(`${name} expected ${formatShape(shapes[part!]!)}, received ${formatShape(shape)}`)
    else found.add(linear)
  }
  for (const linear of found) for (const name of partsOf(linear)) if (!file.tensors.has(name)) faults.push(`${name} is missing`)
  const states = new Map<string, Record<Role, DelayedState>>()
  if (faults.length === 0) {
    for (const linear of found) {
      const [input, weight] = [await readState(file, `${linear}.input`), await readState(file, `${linear}.weight`)]
      for (const [role, { scale }] of [['input', input], ['weight', weight]] as const) if (!(scale > 0 && Number.isFinite(scale))) faults.push(`${linear}.${role}.scale expected a finite scale above 0, received ${scale}`)
      states.set(linear, { input, weight })
    }
  }
  if (faults.length > 0) {
    const more = faults.length > 8 ? ', …' : ''
    throw new OctetError('CHECKPOINT_MISMATCH', { op: 'importRecipeState', argument: 'file', expected: `the recipe state of this module, with histories of ${recipe.amaxHistoryLen}`, received: `${faults.length} faults: ${faults.slice(0, 8).join(', ')}${more}` })
  }
  for (const [name, state] of states) linears.get(name)!.recipeState.load(recipe, state)
}

function partsOf(linear: string): string[] {
  return ROLES.flatMap((role) => ['scale', 'amax_history'].map((part) => `${linear}.${role}.${part}`))
}

async function readState(file: RecipeStateReader, prefix: string): Promise<DelayedState> {
  return { scale: (await file.readFloat32(`${prefix}.scale`))[0]!, amaxHistory: await file.readFloat32(`${prefix}.amax_history`) }
}
