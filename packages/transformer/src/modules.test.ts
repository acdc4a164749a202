import { roundBf16 } from '@octet-llm/core'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { LayerNormLinear } from './layer-norm-linear.js'
import { LayerNormMLP } from './layer-norm-mlp.js'
import { Linear } from './linear.js'
import { findWeight } from './module.js'
import { LayerNorm, RMSNorm } from './norm.js'
import { noise } from './testing/layer.test.util.js'
import { activate, difference, matmul, norm } from './testing/oracle.test.util.js'
import { Weight } from './weight.js'
import { Workspace } from './workspace.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const f32 = (data: Float32Array, shape: readonly number[]) => Tensor.from(data, { shape, dtype: 'f32', device })
const values = (w: Weight | undefined) => w!.tensor.toFloat32Array()

describe('modules on their own, against the oracle', () => {
  const x = noise(3 * 10, 1)

  it('Linear, over any leading axes', async () => {
    const linear = new Linear({ device, inFeatures: 10, outFeatures: 7, seed: 2, initStd: 1 })
    linear.bias!.tensor.write(noise(7, 3))
    const y = linear.forward(f32(x, [1, 3, 10]))
    expect(y.shape).toEqual([1, 3, 7])
    const want = matmul(x, await values(linear.weight), 10, await values(linear.bias))
    expect(difference(await y.toFloat32Array(), want).max).toBeLessThan(1e-5)
    expect(new Linear({ device, inFeatures: 10, outFeatures: 7, bias: false }).bias).toBeUndefined()
  })

  it('Linear with a residual and its input’s rounding', async () => {
    const linear = new Linear({ device, inFeatures: 10, outFeatures: 10, seed: 2, initStd: 1, bias: false })
    const residual = f32(noise(30, 4), [3, 10])
    const want = matmul(x, await values(linear.weight), 10).map((v, i) => v + noise(30, 4)[i]!)
    expect(linear.run(f32(x, [3, 10]), { out: residual, residual })).toBe(residual)
    expect(difference(await residual.toFloat32Array(), want).max).toBeLessThan(1e-5)
  })

  it.each(['RMSNorm', 'LayerNorm'] as const)('LayerNormLinear with %s', async (normalization) => {
    const module = new LayerNormLinear({ device, inFeatures: 10, outFeatures: 4, normalization, eps: 1e-3, zeroCenteredGamma: true, seed: 1, initStd: 1 })
    module.norm.weight.tensor.write(noise(10, 5))
    module.norm.bias?.tensor.write(noise(10, 6))
    const bias = module.norm.bias === undefined ? undefined : await values(module.norm.bias)
    const n = norm(x, { normalization, eps: 1e-3, zeroCentered: true }, await values(module.norm.weight), bias)
    const want = matmul(n, await values(module.linear.weight), 10)
    expect(difference(await module.forward(f32(x, [3, 10])).toFloat32Array(), want).max).toBeLessThan(1e-5)
    module.dispose()
  })

  it('LayerNormMLP', async () => {
    const module = new LayerNormMLP({ device, hiddenSize: 10, ffnHiddenSize: 6, activation: 'geglu', seed: 1, initStd: 0.5 })
    const n = norm(x, { normalization: 'LayerNorm', eps: 1e-5 }, await values(module.norm.weight))
    const wide = matmul(n, await values(module.fc1.weight), 10)
    const want = matmul(activate(wide, 'geglu', 3), await values(module.fc2.weight), 6)
    expect(difference(await module.forward(f32(x, [3, 10])).toFloat32Array(), want).max).toBeLessThan(1e-5)
    expect(module.fc1.weight.segments).toEqual([{ name: 'gate', rows: 6 }, { name: 'up', rows: 6 }])
    module.dispose()
  })

  it('norms start at identity', async () => {
    for (const zeroCenteredGamma of [true, false]) {
      const rms = new RMSNorm({ device, normalizedShape: 10, zeroCenteredGamma })
      const ln = new LayerNorm({ device, normalizedShape: 10, zeroCenteredGamma })
      for (const [module, normalization] of [[rms, 'RMSNorm'], [ln, 'LayerNorm']] as const) {
        module.initialize()
        const want = norm(x, { normalization, eps: 1e-5 }, new Float32Array(10).fill(1))
        expect(difference(await module.forward(f32(x, [3, 10])).toFloat32Array(), want).max).toBeLessThan(1e-5)
      }
    }
  })

  /** Hugging Face's bf16 orders, by the numbers of a run: Gemma rounds once, Llama before the weight. */
  it('RMSNorm rounds where Gemma and where Llama do', async () => {
    const gemma = new RMSNorm({ device, normalizedShape: 4, eps: 1e-6, zeroCenteredGamma: true })
    gemma.weight.tensor.write([0.013, 0.5, -0.25, 1])
    // The weight of the run was bf16.
    const bf16 = Tensor.from([0.013, 0.5, -0.25, 1], { shape: [4], dtype: 'bf16', device })
    gemma.weight.tensor.write(await bf16.toFloat32Array())
    const y = gemma.forward(Tensor.from([1, -2, 3, 0.5], { shape: [1, 4], dtype: 'bf16', device }))
    expect([...(await y.toFloat32Array())]).toEqual([0.53515625, -1.5859375, 1.1953125, 0.53125])
    const x = Array.from({ length: 8 }, (_, i) => 1 + i / 16)
    const run = async (castBeforeWeight: boolean) => {
      const n = new RMSNorm({ device, normalizedShape: 8, eps: 0, castBeforeWeight })
      n.weight.tensor.write(new Float32Array(8).fill(1.4140625))
      return [...(await n.forward(Tensor.from(x, { shape: [1, 8], dtype: 'bf16', device })).toFloat32Array())]
    }
    const inv = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / 8)
    const once = x.map((v) => roundBf16(v * inv * 1.4140625))
    const twice = x.map((v) => roundBf16(roundBf16(v * inv) * 1.4140625))
    expect(once).not.toEqual(twice)
    expect([await run(false), await run(true)]).toEqual([once, twice])
  })
})

describe('Weight', () => {
  const make = () => new Weight({ device, dtype: 'f32', shape: [6, 4], segments: [{ name: 'gate', rows: 2 }, { name: 'up', rows: 4 }] })

  it('is one allocation, its segments views', async () => {
    const w = make()
    w.fill(0)
    w.view('up').write(new Float32Array(16).fill(1))
    expect([...(await w.tensor.toFloat32Array())]).toEqual([...new Array(8).fill(0), ...new Array(16).fill(1)])
    expect([w.range('gate'), w.range('up'), w.view()]).toEqual([[0, 2], [2, 6], w.tensor])
    expect(() => w.view('down')).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', received: 'down' }))
    w.dispose()
    expect(w.tensor.disposed).toBe(true)
  })

  it('refuses segments that do not add up', () => {
    expect(() => new Weight({ device, dtype: 'f32', shape: [6, 4], segments: [{ name: 'a', rows: 5 }] })).toThrowError(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
  })

  it('is found by address, whole or by segment, and nothing else is', () => {
    const weights = new Map([['mlp.fc1_weight', make()]])
    expect(findWeight(weights, 'mlp.fc1_weight').segment).toBeUndefined()
    expect(findWeight(weights, 'mlp.fc1_weight.up').segment).toBe('up')
    for (const address of ['mlp.fc1_weight.down', 'mlp', 'fc1_weight']) {
      expect(() => findWeight(weights, address)).toThrowError(expect.objectContaining({ code: 'INTERNAL' }))
    }
  })
})

describe('Workspace', () => {
  it('keeps a buffer while its shape and dtype stay', () => {
    const workspace = new Workspace(device)
    const a = workspace.get('a', [2, 3], 'f32')
    expect(workspace.get('a', [2, 3], 'f32')).toBe(a)
    expect(workspace.get('b', [2, 3], 'f32')).not.toBe(a)
    expect(workspace.byteLength).toBe(48)
    const wider = workspace.get('a', [2, 4], 'f32')
    expect([wider.shape, a.disposed]).toEqual([[2, 4], true])
    expect(workspace.get('a', [2, 4], 'bf16')).not.toBe(wider)
    workspace.get('b', [2, 3], 'f32').dispose()
    expect(workspace.get('b', [2, 3], 'f32').disposed).toBe(false)
    workspace.dispose()
    expect(workspace.byteLength).toBe(0)
  })
})
