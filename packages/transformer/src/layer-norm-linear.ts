import { Construction, disposeAll, type Tensor } from '@octet-llm/kernels'

import type { RunOptions } from './context.js'
import { Linear, type LinearOptions } from './linear.js'
import type { Module, StateEntry } from './module.js'
import { makeNorm, RMSNorm, type Norm, type Normalization, type ResidualSum } from './norm.js'
import type { Weight } from './weight.js'
import { Workspace } from './workspace.js'

export interface LayerNormLinearOptions extends LinearOptions {
  /** Default 1e-5. */
  readonly eps?: number
  /** Default 'LayerNorm'. */
  readonly normalization?: Normalization
  /** Default false. */
  readonly zeroCenteredGamma?: boolean
  /** See Norm. Default false. */
  readonly castBeforeWeight?: boolean
}

/** y = norm(x) · weightᵀ + bias. */
export class LayerNormLinear implements Module {
  readonly norm: Norm
  readonly linear: Linear

  constructor(options: LayerNormLinearOptions) {
    using construction = new Construction()
    this.linear = new Linear(options)
    this.norm = makeNorm(options.normalization ?? 'LayerNorm', { ...options, normalizedShape: options.inFeatures })
    if (options.initialize !== false) this.norm.initialize()
    construction.complete()
  }

  /** @param x [..., K] @returns [..., N]. @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH` */
  forward(x: Tensor, options: Pick<RunOptions, 'fp8'> = {}): Tensor {
    const workspace = new Workspace(x.device)
    try {
      return this.run(x, workspace, options)
    } finally {
      workspace.dispose()
    }
  }

  run(x: Tensor, workspace: Workspace, options: RunOptions = {}): Tensor {
    return runNormed(this.norm, this.linear, x, { ...options, workspace })
  }

  weights(): [string, Weight][] {
    return [...normWeights(this.norm), ...this.linear.weights()]
  }

  stateEntries(): StateEntry[] {
    return [...normWeights(this.norm).map(([name, weight]) => ({ name, weight })), ...this.linear.stateEntries()]
  }

  dispose(): void {
    disposeAll([this.norm, this.linear])
  }
}

/**
 * linear(norm(x)), the norm leaving its result in FP8 where the projection takes it so: one op less, the same numbers.
 * @param sum see Norm.forward
 */
export function runNormed(norm: Norm, linear: Linear, x: Tensor, options: RunOptions & { readonly workspace: Workspace }, sum?: ResidualSum): Tensor {
  const { workspace } = options
  if (norm instanceof RMSNorm) {
    const target = linear.inputTarget(x, workspace, options.fp8)
    if (target !== undefined) {
      norm.quantize(x, target, sum)
      return linear.runQuantized(target, x, options)
    }
  }
  return linear.run(norm.forward(x, workspace.get('norm', x.shape, x.dtype), sum), options)
}

/** The norm's parameters under TransformerEngine's names in fused modules. */
export function normWeights(norm: Norm): [string, Weight][] {
  return [['layer_norm_weight', norm.weight], ...(norm.bias === undefined ? [] : [['layer_norm_bias', norm.bias] as [string, Weight]])]
}
