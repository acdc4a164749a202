import { openDevice, Tensor } from '@octet-llm/kernels'
import { expect, it } from 'vitest'

import { TransformerLayer } from './transformer-layer.js'

it('runs the layer of the README', async () => {
  const device = await openDevice('auto')
  const layer = new TransformerLayer({ hiddenSize: 64, ffnHiddenSize: 256, numAttentionHeads: 4, device, dtype: 'bf16', seed: 1 })
  const x = Tensor.from(new Float32Array(8 * 64), { shape: [1, 8, 64], dtype: 'bf16', device })
  const y = layer.forward(x)
  expect([y.shape, y.dtype]).toEqual([[1, 8, 64], 'bf16'])
  // Norms of zeros are zero and every bias starts at zero, so nothing is added to x.
  expect((await y.toFloat32Array()).every((v) => v === 0)).toBe(true)
  await device.dispose()
})
