/** The update of delayed scaling, for one tensor. */
import { reject } from './fields.js'
import type { DelayedScaling } from './recipes.js'
import { FLOAT32_MAX, inverseScale } from './scaling.js'

export interface DelayedState {
  /** [L], L = `amaxHistoryLen`. Entry 0 collects the current step; 1…L−1 are oldest to newest. */
  readonly amaxHistory: Float32Array
  readonly scale: number
}

export interface DelayedUpdate extends DelayedState {
  readonly scaleInv: number
}

/** History of zeros, scale 1. */
export function initialDelayedState(recipe: DelayedScaling): DelayedState {
  return { amaxHistory: new Float32Array(recipe.amaxHistoryLen), scale: 1 }
}

/** Calibration and quantization collect into entry 0: the larger of the two, NaN if either is. */
export function recordAmax(state: DelayedState, amax: number): DelayedState {
  const amaxHistory = state.amaxHistory.slice()
  const so = amaxHistory[0] as number
  if (Number.isNaN(amax) || Math.abs(amax) > so) amaxHistory[0] = Math.abs(amax)
  return { amaxHistory, scale: state.scale }
}

/**
 * The state after a step, a new value. With TransformerEngine's built-in rules it is the fused update
 * (`common/recipe/delayed_scaling.cu`, `kernel_bulk`):
 *
 * ```
 * last = reducedAmax ≠ 0 ? reducedAmax : history[0]
 * last = 0: nothing changes
 * otherwise the history rolls by one, its end becomes last and entry 0 becomes 0
 * amax = most_recent ? last : max(history[1…L−1], last), so the entry that falls out counts once more; NaN is passed over
 *        (as fmaxf does)
 * finite and positive: scale = (fp8Max · 2^−margin) / amax; otherwise it stays; an infinite scale becomes the largest float32
 * ```
 *
 * With a function of one's own it is the unfused one (`pytorch/quantization.py`): the history always rolls, the amax
 * function sees it before it rolls, and the default scale is `(fp8Max / amax) / 2^margin`.
 *
 * @param reducedAmax The maximum over all ranks; leave it out where there is one.
 * @throws OctetError `INVALID_ARGUMENT` when the history has another length than the recipe, or a function returns no number.
 */
export function updateDelayedScaling(state: DelayedState, recipe: DelayedScaling, fp8Max: number, reducedAmax = 0): DelayedUpdate {
  if (state.amaxHistory.length !== recipe.amaxHistoryLen) {
    throw reject('updateDelayedScaling', 'amaxHistory', `[${recipe.amaxHistoryLen}]`, `[${state.amaxHistory.length}]`)
  }
  const builtIn = typeof recipe.amaxComputeAlgo !== 'function' && recipe.scalingFactorComputeAlgo === null
  const { amaxHistory, scale } = builtIn ? fused(state, recipe, fp8Max, reducedAmax) : unfused(state, recipe, fp8Max, reducedAmax)
  return { amaxHistory, scale, scaleInv: inverseScale(scale) }
}

function fused(state: DelayedState, recipe: DelayedScaling, fp8Max: number, reducedAmax: number): DelayedState {
  const reduced = Math.fround(reducedAmax)
  const last = reduced !== 0 ? reduced : (state.amaxHistory[0] as number)
  if (last === 0) return { amaxHistory: state.amaxHistory.slice(), scale: bounded(Math.fround(state.scale)) }
  const amaxHistory = roll(state.amaxHistory, last)
  const amax = recipe.amaxComputeAlgo === 'most_recent' ? last : largest(state.amaxHistory.subarray(1), last)
  const scaledMax = Math.fround(fp8Max * 2 ** -recipe.margin)
  return { amaxHistory, scale: bounded(isUsable(amax) ? Math.fround(scaledMax / amax) : Math.fround(state.scale)) }
}

function unfused(state: DelayedState, recipe: DelayedScaling, fp8Max: number, reducedAmax: number): DelayedState {
  const before = state.amaxHistory.slice()
  if (reducedAmax !== 0) before[0] = reducedAmax
  const last = before[0] as number
  const { amaxComputeAlgo, scalingFactorComputeAlgo } = recipe
  const amax =
    typeof amaxComputeAlgo === 'function'
      ? returned('amaxComputeAlgo', amaxComputeAlgo(before.slice()))
      : amaxComputeAlgo === 'most_recent' ? last : Math.max(...chunks(before))
  const old = Math.fround(state.scale)
  let scale: number
  if (scalingFactorComputeAlgo !== null) scale = returned('scalingFactorComputeAlgo', scalingFactorComputeAlgo(amax, old, fp8Max, recipe))
  else scale = bounded(isUsable(amax) ? Math.fround(Math.fround(fp8Max / amax) / 2 ** recipe.margin) : old)
  return { amaxHistory: roll(before, last), scale }
}

/** Everything moves towards the start by one, `last` comes to the end, entry 0 starts anew. */
function roll(history: Float32Array, last: number): Float32Array {
  const rolled = new Float32Array(history.length)
  rolled.set(history.subarray(1))
  rolled[history.length - 1] = last
  rolled[0] = 0
  return rolled
}

/** The comparison is false for NaN, which is so passed over. */
function largest(past: Float32Array, last: number): number {
  let amax = last > 0 ? last : 0
  for (const value of past) if (value > amax) amax = value
  return amax
}

/** Maxima of stretches, since a spread of a long history would overflow the stack; NaN wins. */
function chunks(values: Float32Array): number[] {
  const maxima: number[] = []
  for (let i = 0; i < values.length; i += 4096) maxima.push(Math.max(...values.subarray(i, i + 4096)))
  return maxima
}

function isUsable(amax: number): boolean {
  return Number.isFinite(amax) && amax > 0
}

/** A scale too large for float32 becomes its largest value: the amax then lands below the FP8 maximum. */
function bounded(scale: number): number {
  return scale === Infinity || scale === -Infinity ? FLOAT32_MAX : scale
}

function returned(argument: string, value: unknown): number {
  if (typeof value !== 'number') throw reject('updateDelayedScaling', argument, 'a function that returns a number', value)
  return Math.fround(value)
}
