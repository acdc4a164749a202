import { OctetError } from '@octet-llm/core'
import { FP8_MAX, initialDelayedState, quantSpec, updateDelayedScaling, type DelayedScaling, type DelayedState, type Recipe } from '@octet-llm/fp8-recipe'
import { amax, cast, Construction, copy, disposeAll, keep, Tensor, updateScale, type Device, type QuantizedTensor } from '@octet-llm/kernels'

import { QuantizedStorage, type QuantizeRule, type WeightRun } from '../quantized-storage.js'
import type { Weight } from '../weight.js'
import type { Workspace } from '../workspace.js'
import { quantizeActivations } from './activations.js'
import type { AutocastContext } from './autocast.js'

/** The delayed scaling of one tensor, on the device. */
export class DelayedTensor {
  /** f32 [amaxHistoryLen]; entry 0 collects the current step. */
  readonly amaxHistory: Tensor
  /** f32 [1]: multiplies before the cast. */
  readonly scale: Tensor
  readonly #recipe: DelayedScaling

  constructor(device: Device, recipe: DelayedScaling, { amaxHistory, scale }: DelayedState = initialDelayedState(recipe)) {
    using construction = new Construction()
    this.#recipe = recipe
    this.amaxHistory = keep(Tensor.from(amaxHistory, { shape: [amaxHistory.length], dtype: 'f32', device }))
    this.scale = keep(Tensor.from(Float32Array.of(scale), { shape: [1], dtype: 'f32', device }))
    construction.complete()
  }

  get recipe(): DelayedScaling {
    return this.#recipe
  }

  /** The larger of x's amax and what the step has seen goes to entry 0. */
  record(x: Tensor): void {
    const pair = Tensor.empty([2], { dtype: 'f32', device: x.device })
    const [so, now, first] = [pair.rows(0, 1), pair.rows(1, 2), this.amaxHistory.rows(0, 1)]
    copy({ x: first, out: so })
    amax({ x, out: now })
    amax({ x: pair, out: first })
    for (const t of [so, now, first, pair]) t.dispose()
  }

  /**
   * The end of a step, by fp8-recipe's exact rule. It is enqueued, also into a graph that is being captured; with a
   * function of one's own in the recipe it runs on the host, and the promise resolves when the new scale is in place.
   */
  update(): Promise<void> | undefined {
    const { amaxComputeAlgo, scalingFactorComputeAlgo, margin } = this.#recipe
    if (typeof amaxComputeAlgo === 'function' || scalingFactorComputeAlgo !== null) return this.#updateOnHost()
    updateScale({ amaxHistory: this.amaxHistory, scale: this.scale, fp8Max: FP8_MAX.e4m3, margin, algorithm: amaxComputeAlgo })
    return undefined
  }

  async #updateOnHost(): Promise<void> {
    const [amaxHistory, scale] = await Promise.all([this.amaxHistory.toFloat32Array(), this.scale.toFloat32Array()])
    const next = updateDelayedScaling({ amaxHistory, scale: scale[0]! }, this.#recipe, FP8_MAX.e4m3)
    this.amaxHistory.write(next.amaxHistory)
    this.scale.write(Float32Array.of(next.scale))
  }

  dispose(): void {
    disposeAll([this.amaxHistory, this.scale])
  }
}

/** What a projection keeps between autocasts: its delayed scales and, between microbatches, its quantized weight. */
export class LinearRecipeState {
  readonly #device: Device
  #input: DelayedTensor | undefined
  #weight: DelayedTensor | undefined
  #cache: { readonly recipe: Recipe; readonly storage: QuantizedStorage } | undefined
  #pending = false

  constructor(device: Device) {
    this.#device = device
  }

  /** Undefined before the first forward under DelayedScaling. */
  get input(): DelayedTensor | undefined {
    return this.#input
  }

  get weight(): DelayedTensor | undefined {
    return this.#weight
  }

  /** Records what delayed scaling wants to know, without quantizing. */
  calibrate(ctx: AutocastContext, x: Tensor, weight: Weight): void {
    if (ctx.recipe.kind !== 'delayed') return
    this.#begin(ctx, ctx.recipe)
    this.#input!.record(x)
    this.#weight!.record(weight.tensor)
  }

  /** The input in FP8, by the recipe; delayed scaling records its amax and uses the scale of earlier steps. */
  quantizeInput(ctx: AutocastContext, x: Tensor, workspace: Workspace): QuantizedTensor {
    const rule = ruleOf(ctx.recipe, 'input')
    if (ctx.recipe.kind !== 'delayed') return quantizeActivations(x, rule, workspace)
    this.#begin(ctx, ctx.recipe)
    this.#input!.record(x)
    return quantizeActivations(x, rule, workspace, this.#input!.scale)
  }

  /**
   * The weight in FP8 for one product; call `release` when that is enqueued.
   * @throws OctetError `INVALID_ARGUMENT` for `isFirstMicrobatch: false` without a kept weight of the recipe
   */
  quantizeWeight(ctx: AutocastContext, weight: Weight): { readonly runs: readonly WeightRun[]; release(): void } {
    const { recipe, isFirstMicrobatch } = ctx
    if (isFirstMicrobatch === false) {
      if (this.#cache?.recipe !== recipe) throw new OctetError('INVALID_ARGUMENT', { op: 'autocast', argument: 'isFirstMicrobatch', expected: 'true first: no weight of this recipe is kept', received: 'false' })
      return { runs: this.#cache.storage.runs, release: () => undefined }
    }
    if (recipe.kind === 'delayed') {
      this.#begin(ctx, recipe)
      this.#weight!.record(weight.tensor)
    }
    using construction = new Construction()
    const storage = new QuantizedStorage(this.#device, weight.shape as readonly [number, number], [{ name: undefined, begin: 0, end: weight.shape[0]! }])
    const wide = weight.dtype === 'f16' ? cast({ x: weight.tensor, dtype: 'f32' }) : undefined
    storage.store(undefined, wide ?? weight.tensor, ruleOf(recipe, 'weight'), recipe.kind === 'delayed' ? this.#weight!.scale : undefined)
    wide?.dispose()
    construction.complete()
    if (isFirstMicrobatch === undefined) return { runs: storage.runs, release: () => storage.dispose() }
    this.#cache?.storage.dispose()
    this.#cache = { recipe, storage }
    return { runs: storage.runs, release: () => undefined }
  }

  /** At the end of the outermost autocast. @returns undefined when the update is enqueued, else when the host is done with it */
  update(): Promise<void> | undefined {
    const waits = [this.#input?.update(), this.#weight?.update()].filter((wait) => wait !== undefined)
    if (waits.length === 0) return undefined
    this.#pending = true
    return Promise.all(waits).then(() => undefined).finally(() => (this.#pending = false))
  }

  /** Takes the scales of a saved state in the place of its own. */
  load(recipe: DelayedScaling, states: { readonly input: DelayedState; readonly weight: DelayedState }): void {
    this.#replace(recipe, states)
  }

  dispose(): void {
    disposeAll([this.#input, this.#weight, this.#cache?.storage])
    this.#input = this.#weight = this.#cache = undefined
  }

  /** Scales start anew with another recipe. */
  #begin(ctx: AutocastContext, recipe: DelayedScaling): void {
    if (this.#pending) throw new OctetError('INVALID_ARGUMENT', { op: 'autocast', argument: 'ctx', expected: 'settled delayed scales', received: 'an update in flight', hint: 'await ctx.settled of the autocast before this one' })
    ctx.touch(this)
    if (this.#input?.recipe === recipe) return
    this.#replace(recipe, {})
  }

  /** Both or neither. */
  #replace(recipe: DelayedScaling, states: { readonly input?: DelayedState; readonly weight?: DelayedState }): void {
    using construction = new Construction()
    const [input, weight] = [new DelayedTensor(this.#device, recipe, states.input), new DelayedTensor(this.#device, recipe, states.weight)]
    disposeAll([this.#input, this.#weight])
    construction.complete()
    this.#input = input
    this.#weight = weight
  }
}

/** The recipe's own rule for an operand. @throws OctetError `RECIPE_NOT_SUPPORTED` for MXFP8 */
export function ruleOf(recipe: Recipe, role: 'input' | 'weight'): QuantizeRule {
  const { granularity } = quantSpec(recipe, role)
  if (recipe.kind !== 'current' && recipe.kind !== 'block') return { granularity }
  const params = role === 'input' ? recipe.fp8QuantFwdInp : recipe.fp8QuantFwdWeight
  return { granularity, powerOf2: params.power2Scale, epsilon: params.amaxEpsilon }
}
