import { OctetError } from '@octet-llm/core'
import { Construction, disposeAll, keep, linear, Tensor, type Device, type QuantizedOutput, type QuantizedTensor, type TensorDType } from '@octet-llm/kernels'

import type { RunOptions } from './context.js'
import { activationTarget, quantizeActivations, type ActivationsLike } from './fp8/activations.js'
import { AutocastContext } from './fp8/autocast.js'
import type { Fp8Context } from './fp8/context.js'
import type { Fp8Inference } from './fp8/inference.js'
import { LinearRecipeState, ruleOf } from './fp8/recipe-state.js'
import type { LowRankUpdate } from './low-rank.js'
import { checkSizes, weightDtypeOf, weightStream, type Module, type ModuleOptions, type StateEntry } from './module.js'
import type { QuantizeRule, WeightRun } from './quantized-storage.js'
import { Weight, type WeightSegment } from './weight.js'
import { Workspace } from './workspace.js'

export interface LinearOptions extends ModuleOptions {
  /** K */
  readonly inFeatures: number
  /** N */
  readonly outFeatures: number
  /** Default true. */
  readonly bias?: boolean
  /** Named output rows that add up to N (TransformerEngine's parameters_split). */
  readonly parametersSplit?: readonly WeightSegment[]
  /** Random streams of the segments, or of the whole weight. Default 0, 1, … */
  readonly streams?: readonly number[]
}

/**
 * y = x · weightᵀ + bias: accumulated in float32, rounded once. With FP8 weights the activations are quantized first, each
 * token by itself or by a calibrated scale.
 */
export class Linear implements Module {
  readonly inFeatures: number
  readonly outFeatures: number
  /** [N, K] */
  readonly weight: Weight
  /** f32 [N] */
  readonly bias: Weight | undefined
  readonly #split: boolean
  readonly #device: Device
  #inputs: QuantizeRule | undefined
  #staticInputs: boolean
  #inputScale: number | undefined
  #scale: Tensor | undefined
  #state: LinearRecipeState | undefined
  #updates: readonly LowRankUpdate[] = []

  /** @throws OctetError `INVALID_ARGUMENT`, `SHAPE_MISMATCH` when the split does not add up */
  constructor(options: LinearOptions) {
    const { device, inFeatures, outFeatures } = options
    checkSizes('Linear', { inFeatures, outFeatures })
    this.#device = device
    this.inFeatures = inFeatures
    this.outFeatures = outFeatures
    const segments = options.parametersSplit
    this.#split = segments !== undefined
    this.weight = new Weight({ device, dtype: weightDtypeOf(options), shape: [outFeatures, inFeatures], segments, quantize: options.fp8?.weights })
    this.#inputs = options.fp8?.inputs
    this.#staticInputs = options.fp8?.staticInputs ?? false
    this.bias = (options.bias ?? true) ? new Weight({ device, dtype: 'f32', shape: [outFeatures], segments }) : undefined
    if (options.initialize === false) return
    const streams = options.streams ?? (segments ?? [0]).map((_, i) => weightStream(0, i))
    using construction = new Construction()
    this.weight.randomize(options.seed ?? 0, options.initStd ?? 0.02, streams)
    this.bias?.fill(0)
    construction.complete()
  }

  /** @param x [..., K] @returns [..., N] in x's dtype. @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH` */
  forward(x: Tensor, options: Pick<RunOptions, 'fp8'> = {}): Tensor {
    return this.run(x, options)
  }

  /** As forward, with a target and a residual that is added before rounding. */
  run(x: Tensor, options: RunOptions = {}): Tensor {
    const { fp8 } = options
    fp8?.observer?.input(this, x)
    if (fp8 instanceof AutocastContext && fp8.calibrating && this.weight.rule === undefined) this.recipeState.calibrate(fp8, x, this.weight)
    const plan = this.#plan(fp8)
    if (plan === undefined && this.#updates.length === 0) return this.#multiply(x, x, this.weight.runs, options)
    const workspace = options.workspace ?? new Workspace(x.device)
    try {
      const y = this.#multiply(x, plan === undefined ? x : plan.quantize(x, workspace), plan?.runs ?? this.weight.runs, options)
      for (const update of this.#updates) update.add(x, y, workspace)
      return y
    } finally {
      plan?.release?.()
      if (options.workspace === undefined) workspace.dispose()
    }
  }

  /** Keeps a low-rank update beside the weight from now on. Owned by the module. */
  addLowRank(update: LowRankUpdate): void {
    this.#updates = [...this.#updates, update]
  }

  /** Bytes of the low-rank updates; 0 without any. */
  get lowRankBytes(): number {
    return this.#updates.reduce((sum, update) => sum + update.byteLength, 0)
  }

  /**
   * Where whoever makes this projection's input may leave it in FP8 at once, for {@link runQuantized}. Undefined: it makes the
   * activations themselves, for `run`; so it is while somebody looks at them, and where a low-rank update multiplies them too.
   */
  inputTarget(x: ActivationsLike, workspace: Workspace, fp8: Fp8Context | undefined): QuantizedOutput | undefined {
    if (fp8 instanceof AutocastContext || fp8?.observer !== undefined || fp8?.enabled === false) return undefined
    if (this.weight.rule === undefined || this.#updates.length > 0) return undefined
    const rule = this.#inputRule()
    return rule === undefined ? undefined : activationTarget(x, rule, workspace, this.#staticScale)
  }

  /** As run, for an input that is quantized as {@link inputTarget} wanted it. @param like the activations that it stands for */
  runQuantized(input: QuantizedTensor, like: ActivationsLike & { readonly dtype: TensorDType }, options: RunOptions = {}): Tensor {
    return this.#multiply(like, input, this.weight.runs, options)
  }

  /** Delayed scales and the kept FP8 weight of autocasts. Owned by the module. */
  get recipeState(): LinearRecipeState {
    this.#state ??= new LinearRecipeState(this.#device)
    return this.#state
  }

  /** The output of one segment's rows alone; numbers are those of {@link run}. */
  runSegment(x: Tensor, segment: string, { out, fp8 }: Pick<RunOptions, 'out' | 'fp8'> = {}): Tensor {
    if (fp8 instanceof AutocastContext && fp8.enabled) throw new OctetError('NOT_SUPPORTED', { op: 'Linear', argument: 'fp8', expected: 'no autocast around one segment', received: fp8.recipe.name, hint: 'use the fused layer' })
    fp8?.observer?.input(this, x)
    const workspace = new Workspace(x.device)
    try {
      const input = this.weight.rule === undefined || fp8?.enabled === false ? x : this.#quantizeInput(x, workspace)
      const y = linear({ x: input, weight: this.weight.operand(segment), bias: this.bias?.view(segment), out, dtype: x.dtype as 'f32' })
      const [begin, end] = this.weight.range(segment)
      for (const update of this.#updates) if (update.covers(begin, end)) update.addTo(x, y, workspace)
      return y
    } finally {
      workspace.dispose()
    }
  }

  /** How activations are quantized where there is no static scale; undefined: they are not. */
  get inputRule(): QuantizeRule | undefined {
    return this.#inputs
  }

  /** Chooses FP8 storage and activations, or neither, while the weight takes no memory. @throws OctetError `INVALID_ARGUMENT` */
  layOut(fp8: Fp8Inference | undefined): void {
    this.weight.layOut(fp8?.weights)
    this.#inputs = fp8?.inputs
    this.#staticInputs = fp8?.staticInputs ?? false
  }

  /** Another rule for activations: by what granularity the loaded weights have. */
  setInputRule(rule: QuantizeRule): void {
    this.#inputs = rule
  }

  /** The static scale of activations: value = fp8 * inputScale; undefined: quantized from their own values. */
  get inputScale(): number | undefined {
    return this.#inputScale
  }

  /**
   * Quantizes activations by one calibrated scale from now on. Without effect on what block scaling quantizes.
   * @param scale value = fp8 * scale, a float32
   * @throws OctetError `INVALID_ARGUMENT` unless it is finite and positive
   */
  setInputScale(scale: number | undefined): void {
    if (scale !== undefined && ![Math.fround(scale), Math.fround(1 / Math.fround(scale))].every((s) => s > 0 && Number.isFinite(s))) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'Linear', argument: 'inputScale', expected: 'a finite scale above 0', received: String(scale) })
    }
    this.#scale?.dispose()
    this.#inputScale = scale === undefined ? undefined : Math.fround(scale)
    // Always made from the inverse, which is what checkpoints hold: a saved model computes with the same bits.
    this.#scale = scale === undefined ? undefined : keep(Tensor.from(Float32Array.of(1 / Math.fround(scale)), { shape: [1], dtype: 'f32', device: this.#device }))
  }

  weights(): [string, Weight][] {
    return [['weight', this.weight], ...(this.bias === undefined ? [] : [['bias', this.bias] as [string, Weight]])]
  }

  stateEntries(): StateEntry[] {
    return splitEntries('weight', this.weight, this.#split).concat(this.bias === undefined ? [] : splitEntries('bias', this.bias, this.#split))
  }

  dispose(): void {
    disposeAll([this.weight, this.bias, this.#scale, this.#state, ...this.#updates])
    this.#scale = undefined
    this.#updates = []
  }

  /** Undefined: nothing is quantized. */
  #plan(fp8: Fp8Context | undefined): LinearPlan | undefined {
    if (fp8 instanceof AutocastContext && fp8.enabled && !fp8.calibrating) return this.#autocastPlan(fp8)
    if (this.weight.rule === undefined || fp8?.enabled === false) return undefined
    return { runs: this.weight.runs, quantize: (x, workspace) => this.#quantizeInput(x, workspace) }
  }

  /** @throws OctetError `INVALID_ARGUMENT` when FP8 weights are of another recipe */
  #autocastPlan(fp8: AutocastContext): LinearPlan {
    const { rule } = this.weight
    const wanted = ruleOf(fp8.recipe, 'weight').granularity
    if (rule !== undefined && rule.granularity !== wanted) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'autocast', argument: 'recipe', expected: `one for FP8 weights by ${rule.granularity}`, received: `${fp8.recipe.name}, whose weights are by ${wanted}`, hint: 'use the recipe that the weights were made with' })
    }
    const state = this.recipeState
    const weight = rule === undefined ? state.quantizeWeight(fp8, this.weight) : { runs: this.weight.runs, release: () => undefined }
    return { ...weight, quantize: (x, workspace) => state.quantizeInput(fp8, x, workspace) }
  }

  /** The scale of calibrated activations, where those are static. */
  get #staticScale(): Tensor | undefined {
    return this.#staticInputs ? this.#scale : undefined
  }

  #inputRule(): QuantizeRule | undefined {
    const rule = this.#inputs
    return rule === undefined || this.#staticScale === undefined ? rule : { ...rule, granularity: 'tensor' }
  }

  #quantizeInput(x: Tensor, workspace: Workspace): Tensor | QuantizedTensor {
    const rule = this.#inputRule()
    return rule === undefined ? x : quantizeActivations(x, rule, workspace, this.#staticScale)
  }

  /** @param x the activations themselves, whose shape and dtype a new output takes */
  #multiply(x: ActivationsLike & { readonly dtype: TensorDType }, input: Tensor | QuantizedTensor, runs: readonly WeightRun[], { out, residual }: RunOptions): Tensor {
    const bias = this.bias?.tensor
    if (runs.length === 1) return linear({ x: input, weight: runs[0]!.weight, bias, residual, out, dtype: x.dtype as 'f32' })
    const y = out ?? Tensor.empty([...x.shape.slice(0, -1), this.outFeatures], { dtype: x.dtype, device: this.#device })
    for (const { begin, end, weight } of runs) {
      const parts = [bias?.rows(begin, end), residual?.columns(begin, end), y.columns(begin, end)] as const
      linear({ x: input, weight, bias: parts[0], residual: parts[1], out: parts[2] })
      for (const part of parts) part?.dispose()
    }
    return y
  }
}

/** What a forward multiplies, and how it quantizes the activations first. */
interface LinearPlan {
  readonly runs: readonly WeightRun[]
  quantize(x: Tensor, workspace: Workspace): Tensor | QuantizedTensor
  /** Frees what was quantized for this product. */
  release?(): void
}

/** `weight`, or `query_weight`, `key_weight`, … when the weight is split. */
export function splitEntries(name: string, weight: Weight, split: boolean): StateEntry[] {
  if (!split || weight.segments.length === 0) return [{ name, weight }]
  return weight.segments.map((s) => ({ name: `${s.name}_${name}`, weight, segment: s.name }))
}
