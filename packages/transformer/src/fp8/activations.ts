import type { Shape } from '@octet-llm/core'
import { quantize, type QuantizedOutput, type QuantizedTensor, type Tensor } from '@octet-llm/kernels'

import type { QuantizeRule } from '../quantized-storage.js'
import type { Workspace } from '../workspace.js'

const BLOCK = 128

/** Activations of `shape` [..., K] as they are known before they exist in FP8. */
export interface ActivationsLike {
  readonly shape: Shape
}

/**
 * Where the op that makes activations of that shape leaves them in e4m3, in buffers of the workspace. Undefined where a scale
 * belongs to more than a row, which only {@link quantizeActivations} sees.
 * @param scale as there
 */
export function activationTarget(x: ActivationsLike, rule: QuantizeRule, workspace: Workspace, scale?: Tensor): QuantizedOutput | undefined {
  const { granularity, powerOf2, epsilon } = rule
  if (granularity === 'block128x128' || (granularity === 'tensor' && scale === undefined)) return undefined
  return { ...buffers(x, granularity, workspace), granularity, scale, powerOf2, epsilon }
}

/**
 * x [..., K] in e4m3, in buffers of the workspace. There are no pads among packed tokens, so none has a part in a scale.
 * @param scale f32 [1], granularity tensor only: a given scale (data = x * scale) instead of one from x's own amax
 */
export function quantizeActivations(x: Tensor, rule: QuantizeRule, workspace: Workspace, scale?: Tensor): QuantizedTensor {
  const { granularity, powerOf2, epsilon } = rule
  return quantize({ x, granularity, powerOf2, epsilon, scale, ...buffers(x, granularity, workspace) })
}

function buffers({ shape }: ActivationsLike, granularity: QuantizeRule['granularity'], workspace: Workspace): { data: Tensor; scaleInv: Tensor } {
  const columns = shape.at(-1)!
  const rows = shape.slice(0, -1).reduce((n, d) => n * d, 1)
  const across = Math.ceil(columns / BLOCK)
  const scales = { tensor: [1], row: [rows], block1x128: [rows, across], block128x128: [Math.ceil(rows / BLOCK), across] }[granularity]
  return { data: workspace.get(`fp8.${columns}`, shape, 'e4m3'), scaleInv: workspace.get(`fp8.${columns}.scaleInv`, scales, 'f32') }
}
