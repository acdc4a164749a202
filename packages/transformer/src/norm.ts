import { disposeAll, layerNorm, rmsNorm, type Device, type QuantizedOutput, type Tensor } from '@octet-llm/kernels'

import { Weight } from './weight.js'

export type Normalization = 'LayerNorm' | 'RMSNorm'

export interface NormOptions {
  readonly device: Device
  /** D, the normalised width. */
  readonly normalizedShape: number
  /** Default 1e-5. */
  readonly eps?: number
  /** The stored weight is gamma - 1 (Gemma). Default false. */
  readonly zeroCenteredGamma?: boolean
  /**
   * RMSNorm only. true rounds the normalised value to the activations' dtype before it is multiplied by the weight
   * (Llama); false rounds once at the end (Gemma, TransformerEngine). Default false.
   */
  readonly castBeforeWeight?: boolean
}

/** A residual connection joined to the norm that follows it. */
export interface ResidualSum {
  readonly residual: Tensor
  readonly out: Tensor
}

/** y = x / rms(x) * weight or (x - mean) / std * weight + bias over the last axis; statistics in float32. */
export abstract class Norm {
  readonly eps: number
  readonly zeroCenteredGamma: boolean
  /** f32 [D]: narrow checkpoints widen exactly, and D numbers cost nothing. */
  readonly weight: Weight
  abstract readonly bias: Weight | undefined

  constructor(options: NormOptions) {
    this.eps = options.eps ?? 1e-5
    this.zeroCenteredGamma = options.zeroCenteredGamma ?? false
    this.weight = new Weight({ device: options.device, dtype: 'f32', shape: [options.normalizedShape] })
  }

  /** Gamma 1, bias 0. */
  initialize(): void {
    this.weight.fill(this.zeroCenteredGamma ? 0 : 1)
    this.bias?.fill(0)
  }

  /**
   * @param x [..., D]
   * @param out as x; allocated when absent
   * @param sum normalises x + sum.residual instead, and leaves that sum (rounded) in sum.out
   * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`
   */
  abstract forward(x: Tensor, out?: Tensor, sum?: ResidualSum): Tensor

  dispose(): void {
    disposeAll([this.weight, this.bias])
  }
}

/** Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019. */
export class RMSNorm extends Norm {
  readonly castBeforeWeight: boolean
  readonly bias = undefined

  constructor(options: NormOptions) {
    super(options)
    this.castBeforeWeight = options.castBeforeWeight ?? false
  }

  forward(x: Tensor, out?: Tensor, sum?: ResidualSum): Tensor {
    return this.#run(x, { out }, sum)
  }

  /** As forward, but the result, rounded to x's dtype, goes out in FP8: what quantizing it afterwards would give. */
  quantize(x: Tensor, quantized: QuantizedOutput, sum?: ResidualSum): void {
    this.#run(x, { quantized }, sum)
  }

  #run(x: Tensor, target: { out?: Tensor | undefined; quantized?: QuantizedOutput }, sum: ResidualSum | undefined): Tensor {
    const { eps, zeroCenteredGamma, castBeforeWeight } = this
    return rmsNorm({ x, weight: this.weight.tensor, residual: sum?.residual, residualOut: sum?.out, ...target, eps, zeroCenteredGamma, castBeforeWeight })
  }
}

/** Ba, Kiros & Hinton, "Layer Normalization", 2016. */
export class LayerNorm extends Norm {
  readonly bias: Weight

  constructor(options: NormOptions) {
    super(options)
    this.bias = new Weight({ device: options.device, dtype: 'f32', shape: [options.normalizedShape] })
  }

  forward(x: Tensor, out?: Tensor, sum?: ResidualSum): Tensor {
    const { eps, zeroCenteredGamma } = this
    return layerNorm({ x, weight: this.weight.tensor, bias: this.bias.tensor, residual: sum?.residual, residualOut: sum?.out, out, eps, zeroCenteredGamma })
  }
}

export function makeNorm(kind: Normalization, options: NormOptions): Norm {
  return kind === 'RMSNorm' ? new RMSNorm(options) : new LayerNorm(options)
}
