// Memory that runs out at any point of making a thing: it is refused, and nothing of it stays.
import { DelayedScaling, Float8CurrentScaling } from '@octet-llm/fp8-recipe'
import { openDevice, quantize, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { autocast } from './fp8/autocast.js'
import { makeGraphedCallables } from './graphed-callables.js'
import { Linear } from './linear.js'
import { starve } from '@octet-llm/kernels/contracts'
import { TransformerLayer } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu', { threads: 1 })))
afterAll(() => device.dispose())

it('two results of one op, the state of an autocast, and a recording', async () => {
  const x = Tensor.zeros([4, 16], { dtype: 'f32', device })
  const quantized = (): { dispose(): void } => {
    const { data, scaleInv } = quantize({ x, granularity: 'row' })
    return { dispose: () => [data, scaleInv].forEach((t) => t.dispose()) }
  }
  expect(await starve(device, quantized)).toBe(2)

  const linear = new Linear({ device, inFeatures: 16, outFeatures: 16, bias: false })
  // The scales of the recipe, once they are there, belong to the module.
  for (const recipe of [new DelayedScaling(), new DelayedScaling()]) {
    autocast({ recipe }, (fp8) => linear.forward(x, { fp8 })).dispose()
    expect(await starve(device, () => autocast({ recipe }, (fp8) => linear.forward(x, { fp8 })))).toBeGreaterThan(2)
  }
  const [first, second] = [new DelayedScaling(), new DelayedScaling()]
  const settle = (): void => autocast({ recipe: first }, (fp8) => linear.forward(x, { fp8 })).dispose()
  expect(await starve(device, () => autocast({ recipe: second }, (fp8) => linear.forward(x, { fp8 })), settle)).toBeGreaterThan(6)

  const state = Tensor.zeros([1], { dtype: 'f32', device })
  const record = (): { dispose(): Promise<void> } => makeGraphedCallables([(a: Tensor) => linear.forward(a)], [[x]], { state: [state] })[0]
  expect(await starve(device, record)).toBeGreaterThan(2)
  for (const t of [x, state, linear]) t.dispose()
})

it('attention in FP8 within an autocast', async () => {
  const layer = new TransformerLayer({ device, hiddenSize: 32, ffnHiddenSize: 48, numAttentionHeads: 4, kvChannels: 8, attnInputFormat: 'bshd' })
  const x = Tensor.zeros([1, 3, 32], { dtype: 'f32', device })
  const recipe = new Float8CurrentScaling({ fp8Dpa: true })
  expect(await starve(device, () => autocast({ recipe }, (fp8) => layer.forward(x, { fp8 })))).toBeGreaterThan(15)
  for (const t of [x, layer]) t.dispose()
})
