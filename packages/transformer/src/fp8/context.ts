import type { Recipe } from '@octet-llm/fp8-recipe'
import type { Tensor } from '@octet-llm/kernels'

import type { DotProductAttention } from '../dot-product-attention.js'
import type { Linear } from '../linear.js'

/** Sees what a forward is about to quantize; pads are not among it. */
export interface ForwardObserver {
  /** Before a projection: its input, [..., K]. */
  input(linear: Linear, x: Tensor): void
  /** Before attention: rotated keys and values, [T, Hkv * D]. */
  keysAndValues(core: DotProductAttention, k: Tensor, v: Tensor): void
}

/** What a forward does in FP8; travels with the call, so two models running at once never see each other's. */
export interface Fp8Context {
  /** false: nothing is quantized on the way, and FP8 weights multiply unquantized activations. */
  readonly enabled: boolean
  /** Amaxes are recorded, and nothing is quantized that was not before. */
  readonly calibrating: boolean
  readonly recipe?: Recipe | undefined
  readonly observer?: ForwardObserver | undefined
  /** See {@link AutocastOptions}. */
  readonly isFirstMicrobatch?: boolean | undefined
}
