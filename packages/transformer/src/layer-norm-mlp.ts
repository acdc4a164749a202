import { OctetError } from '@octet-llm/core'
import { activation, Construction, disposeAll, gatedActivation, type Tensor } from '@octet-llm/kernels'

import type { RunOptions } from './context.js'
import { normWeights, runNormed } from './layer-norm-linear.js'
import { Linear } from './linear.js'
import { checkSizes, weightStream, type Module, type ModuleOptions, type StateEntry } from './module.js'
import { makeNorm, type Norm, type Normalization, type ResidualSum } from './norm.js'
import type { Weight } from './weight.js'
import { Workspace } from './workspace.js'

/**
 * Gated ones compute act(gate) * up; `glu` gates with the sigmoid. GELU is the tanh form, as in TransformerEngine; the
 * forms ending in `Erf` (not in TransformerEngine) are the exact ones.
 */
export const GATED_ACTIVATIONS = ['geglu', 'glu', 'qgeglu', 'reglu', 'sreglu', 'swiglu', 'gegluErf'] as const
export const PLAIN_ACTIVATIONS = ['gelu', 'qgelu', 'relu', 'silu', 'srelu', 'geluErf'] as const
type Gated = (typeof GATED_ACTIVATIONS)[number]
type Plain = (typeof PLAIN_ACTIVATIONS)[number]
export type Activation = Gated | Plain

export interface LayerNormMLPOptions extends ModuleOptions {
  readonly hiddenSize: number
  /** I */
  readonly ffnHiddenSize: number
  /** Default 1e-5. */
  readonly eps?: number
  /** Default true. */
  readonly bias?: boolean
  /** Default 'LayerNorm'. */
  readonly normalization?: Normalization
  /** Default false. */
  readonly zeroCenteredGamma?: boolean
  /** See Norm. Default false. */
  readonly castBeforeWeight?: boolean
  /** Default 'gelu'. */
  readonly activation?: Activation
  /** Names the random streams. Default 1. */
  readonly layerNumber?: number
}

/** y = fc2(act(fc1(norm(x)))); a gated fc1 is one weight with the segments gate|up, [2I, hidden]. */
export class LayerNormMLP implements Module {
  readonly norm: Norm
  readonly fc1: Linear
  readonly fc2: Linear
  readonly activation: Activation

  /** @throws OctetError `INVALID_ARGUMENT` */
  constructor(options: LayerNormMLPOptions) {
    const { hiddenSize, ffnHiddenSize, layerNumber = 1 } = options
    checkSizes('LayerNormMLP', { hiddenSize, ffnHiddenSize })
    this.activation = options.activation ?? 'gelu'
    if (!isGated(this.activation) && !(PLAIN_ACTIVATIONS as readonly string[]).includes(this.activation)) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'LayerNormMLP', argument: 'activation', expected: [...PLAIN_ACTIVATIONS, ...GATED_ACTIVATIONS].join(', '), received: String(this.activation) })
    }
    using construction = new Construction()
    const gate = isGated(this.activation)
    this.norm = makeNorm(options.normalization ?? 'LayerNorm', { ...options, normalizedShape: hiddenSize })
    if (options.initialize !== false) this.norm.initialize()
    this.fc1 = new Linear({
      ...options,
      inFeatures: hiddenSize,
      outFeatures: gate ? 2 * ffnHiddenSize : ffnHiddenSize,
      streams: [weightStream(layerNumber, 4), weightStream(layerNumber, 5)],
      ...(gate ? { parametersSplit: [{ name: 'gate', rows: ffnHiddenSize }, { name: 'up', rows: ffnHiddenSize }] } : {}),
    })
    this.fc2 = new Linear({ ...options, inFeatures: ffnHiddenSize, outFeatures: hiddenSize, streams: [weightStream(layerNumber, 6)] })
    construction.complete()
  }

  /** @param x [..., hidden] @returns [..., hidden]. @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH` */
  forward(x: Tensor, options: Pick<RunOptions, 'fp8'> = {}): Tensor {
    const workspace = new Workspace(x.device)
    try {
      return this.run(x, workspace, options)
    } finally {
      workspace.dispose()
    }
  }

  /** @param sum see Norm.forward */
  run(x: Tensor, workspace: Workspace, options: RunOptions = {}, sum?: ResidualSum): Tensor {
    const lead = x.shape.slice(0, -1)
    const wide = runNormed(this.norm, this.fc1, x, { out: workspace.get('fc1', [...lead, this.fc1.outFeatures], x.dtype), workspace, fp8: options.fp8 }, sum)
    const kind = this.activation
    const shape = [...lead, this.fc2.inFeatures]
    const target = isGated(kind) ? this.fc2.inputTarget({ shape }, workspace, options.fp8) : undefined
    if (isGated(kind) && target !== undefined) {
      gatedActivation({ x: wide, kind, quantized: target })
      return this.fc2.runQuantized(target, { shape, dtype: x.dtype }, { ...options, workspace })
    }
    const out = workspace.get('act', shape, x.dtype)
    if (isGated(kind)) gatedActivation({ x: wide, kind, out })
    else activation({ x: wide, kind, out })
    return this.fc2.run(out, { ...options, workspace })
  }

  weights(): [string, Weight][] {
    return [...normWeights(this.norm), ...numbered('fc1', this.fc1), ...numbered('fc2', this.fc2)]
  }

  stateEntries(): StateEntry[] {
    return this.weights().map(([name, weight]) => ({ name, weight }))
  }

  dispose(): void {
    disposeAll([this.norm, this.fc1, this.fc2])
  }
}

export function isGated(kind: Activation): kind is Gated {
  return (GATED_ACTIVATIONS as readonly string[]).includes(kind)
}

function numbered(name: string, linear: Linear): [string, Weight][] {
  return linear.weights().map(([part, weight]) => [`${name}_${part}`, weight])
}
