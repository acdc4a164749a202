import type { Tensor } from '@octet-llm/kernels'

import type { RunOptions } from './context.js'
import { Linear, type LinearOptions } from './linear.js'
import type { Module, StateEntry } from './module.js'
import { makeNorm, type Norm, type Normalization } from './norm.js'
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
    this.linear = new Linear(options)
    this.norm = makeNorm(options.normalization ?? 'LayerNorm', { ...options, normalizedShape: options.inFeatures })
    if (options.initialize !== false) this.norm.initialize()
  }

  /** @param x [..., K] @returns [..., N]. @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH` */
  forward(x: Tensor, options: Pick<RunOptions, 'fp8'> = {}): Tensor {
    const workspace = new Workspace(x.device)
    const y = this.run(x, workspace, options)
    workspace.dispose()
    return y
  }

  run(x: Tensor, workspace: Workspace, options: RunOptions = {}): Tensor {
    return this.linear.run(this.norm.forward(x, workspace.get('norm', x.shape, x.dtype)), { ...options, workspace })
  }

  weights(): [string, Weight][] {
    return [...normWeights(this.norm), ...this.linear.weights()]
  }

  stateEntries(): StateEntry[] {
    return [...normWeights(this.norm).map(([name, weight]) => ({ name, weight })), ...this.linear.stateEntries()]
  }

  dispose(): void {
    this.norm.dispose()
    this.linear.dispose()
  }
}

/** The norm's parameters under TransformerEngine's names in fused modules. */
export function normWeights(norm: Norm): [string, Weight][] {
  return [['layer_norm_weight', norm.weight], ...(norm.bias === undefined ? [] : [['layer_norm_bias', norm.bias] as [string, Weight]])]
}
