import { quantize, type QuantizedTensor, type Tensor } from '@octet-llm/kernels'

import type { QuantizeRule } from '../quantized-storage.js'
import type { Workspace } from '../workspace.js'

const BLOCK = 128

/**
 * x [..., K] in e4m3, in buffers of the workspace. There are no pads among packed tokens, so none has a part in a scale.
 * @param scale f32 [1], granularity tensor only: a given scale (data = x * scale) instead of one from x's own amax
 */
export function quantizeActivations(x: Tensor, rule: QuantizeRule, workspace: Workspace, scale?: Tensor): QuantizedTensor {
  const columns = x.shape.at(-1)!
  const rows = x.shape.slice(0, -1).reduce((n, d) => n * d, 1)
  const across = Math.ceil(columns / BLOCK)
  const shape = { tensor: [1], row: [rows], block1x128: [rows, across], block128x128: [Math.ceil(rows / BLOCK), across] }[rule.granularity]
  return quantize({
    x,
    granularity: rule.granularity,
    powerOf2: rule.powerOf2,
    epsilon: rule.epsilon,
    scale,
    data: workspace.get(`fp8.${columns}`, x.shape, 'e4m3'),
    scaleInv: workspace.get(`fp8.${columns}.scaleInv`, shape, 'f32'),
  })
}
