import { linear, type Tensor } from '@octet-llm/kernels'

import type { RunOptions } from './context.js'
import { checkSizes, weightDtypeOf, weightStream, type Module, type ModuleOptions, type StateEntry } from './module.js'
import { Weight, type WeightSegment } from './weight.js'

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

/** y = x · weightᵀ + bias: accumulated in float32, rounded once. */
export class Linear implements Module {
  readonly inFeatures: number
  readonly outFeatures: number
  /** [N, K] */
  readonly weight: Weight
  /** f32 [N] */
  readonly bias: Weight | undefined
  readonly #split: boolean

  /** @throws OctetError `INVALID_ARGUMENT`, `SHAPE_MISMATCH` when the split does not add up */
  constructor(options: LinearOptions) {
    const { device, inFeatures, outFeatures } = options
    checkSizes('Linear', { inFeatures, outFeatures })
    this.inFeatures = inFeatures
    this.outFeatures = outFeatures
    const segments = options.parametersSplit
    this.#split = segments !== undefined
    this.weight = new Weight({ device, dtype: weightDtypeOf(options), shape: [outFeatures, inFeatures], segments })
    this.bias = (options.bias ?? true) ? new Weight({ device, dtype: 'f32', shape: [outFeatures], segments }) : undefined
    if (options.initialize === false) return
    const streams = options.streams ?? (segments ?? [0]).map((_, i) => weightStream(0, i))
    this.weight.randomize(options.seed ?? 0, options.initStd ?? 0.02, streams)
    this.bias?.fill(0)
  }

  /** @param x [..., K] @returns [..., N] in x's dtype. @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH` */
  forward(x: Tensor): Tensor {
    return this.run(x)
  }

  /** As forward, with a target and a residual that is added before rounding. */
  run(x: Tensor, { out, residual }: RunOptions = {}): Tensor {
    return linear({ x, weight: this.weight.tensor, bias: this.bias?.tensor, residual, out })
  }

  weights(): [string, Weight][] {
    return [['weight', this.weight], ...(this.bias === undefined ? [] : [['bias', this.bias] as [string, Weight]])]
  }

  stateEntries(): StateEntry[] {
    return splitEntries('weight', this.weight, this.#split).concat(this.bias === undefined ? [] : splitEntries('bias', this.bias, this.#split))
  }

  dispose(): void {
    this.weight.dispose()
    this.bias?.dispose()
  }
}

/** `weight`, or `query_weight`, `key_weight`, … when the weight is split. */
export function splitEntries(name: string, weight: Weight, split: boolean): StateEntry[] {
  if (!split || weight.segments.length === 0) return [{ name, weight }]
  return weight.segments.map((s) => ({ name: `${s.name}_${name}`, weight, segment: s.name }))
}
