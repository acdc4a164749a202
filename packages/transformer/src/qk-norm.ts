import { OctetError } from '@octet-llm/core'
import { rmsNorm, type Tensor } from '@octet-llm/kernels'

import { makeNorm, type Norm, type NormOptions } from './norm.js'
import type { StateEntry } from './module.js'
import { Weight } from './weight.js'

export type QkNormType = 'RMSNorm' | 'LayerNorm' | 'L2Normalization'

export const QK_NORM_TYPES: readonly QkNormType[] = ['RMSNorm', 'LayerNorm', 'L2Normalization']

/** Normalises each head of q or k over its D values. */
export class QkNorm {
  readonly type: QkNormType
  readonly norm: Norm | undefined
  /** L2: x / √(Σx² + eps) is RMSNorm with the constant weight 1/√D and eps / D. */
  readonly #l2: { weight: Weight; eps: number } | undefined
  readonly #headDim: number

  /** @throws OctetError `INVALID_ARGUMENT` */
  constructor(type: QkNormType, options: NormOptions) {
    if (!QK_NORM_TYPES.includes(type)) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'MultiheadAttention', argument: 'qkNormType', expected: QK_NORM_TYPES.join(', '), received: String(type) })
    }
    this.type = type
    this.#headDim = options.normalizedShape
    if (type === 'L2Normalization') {
      const weight = new Weight({ device: options.device, dtype: 'f32', shape: [this.#headDim] })
      weight.fill(this.#headDim ** -0.5)
      this.#l2 = { weight, eps: (options.eps ?? 1e-6) / this.#headDim }
    } else {
      this.norm = makeNorm(type, options)
    }
  }

  initialize(): void {
    this.norm?.initialize()
  }

  /** @param x contiguous [T, heads * D]; normalised in place */
  apply(x: Tensor): void {
    const heads = x.view([(x.shape[0]! * x.shape[1]!) / this.#headDim, this.#headDim])
    if (this.#l2 === undefined) this.norm!.forward(heads, heads)
    else rmsNorm({ x: heads, weight: this.#l2.weight.tensor, eps: this.#l2.eps, out: heads })
    heads.dispose()
  }

  weights(): [string, Weight][] {
    if (this.norm === undefined) return []
    return [['weight', this.norm.weight], ...(this.norm.bias === undefined ? [] : [['bias', this.norm.bias] as [string, Weight]])]
  }

  stateEntries(): StateEntry[] {
    return this.weights().map(([name, weight]) => ({ name, weight }))
  }

  dispose(): void {
    this.norm?.dispose()
    this.#l2?.weight.dispose()
  }
}
