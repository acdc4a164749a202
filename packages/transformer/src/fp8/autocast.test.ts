import { DelayedScaling, Float8BlockScaling, Float8CurrentScaling, FP8_MAX, initialDelayedState, recordAmax, updateDelayedScaling, type DelayedState, type Recipe } from '@octet-llm/fp8-recipe'
import { linear, openDevice, quantize, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { Linear } from '../linear.js'
import { noise } from '../testing/layer.test.util.js'
import { TransformerLayer } from '../transformer-layer.js'
import { autocast, type AutocastContext } from './autocast.js'
import { quantizedModelInit } from './quantized-model-init.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const K = 144
const N = 24
const f32 = (data: Float32Array, shape: readonly number[]) => Tensor.from(data, { shape, dtype: 'f32', device })
const input = (seed: number, size = 1) => f32(noise(6 * K, seed).map((v) => v * size), [6, K])
const make = () => new Linear({ device, inFeatures: K, outFeatures: N, bias: false, seed: 5, initStd: 1 })
const values = async (t: Tensor) => [...(await t.toFloat32Array())]
const largest = (x: Float32Array) => x.reduce((m, v) => Math.max(m, Math.abs(v)), 0)

/** Runs one autocast and waits for its scales. */
async function step<T>(recipe: Recipe, fn: (ctx: AutocastContext) => T, options: { isFirstMicrobatch?: boolean; calibrating?: boolean; enabled?: boolean } = {}): Promise<T> {
  let held: AutocastContext | undefined
  const result = autocast({ recipe, ...options }, (ctx) => fn((held = ctx)))
  await held!.settled
  return result
}

describe('DelayedScaling', () => {
  it.each(['max', 'most_recent'] as const)('follows the fused rule over steps, also through zeros: %s', async (amaxComputeAlgo) => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo, margin: 1 })
    const part = make()
    const w = await part.weight.tensor.toFloat32Array()
    let states: { input: DelayedState; weight: DelayedState } = { input: initialDelayedState(recipe), weight: initialDelayedState(recipe) }
    for (const [i, size] of [1, 8, 0, 0.25, 0.25, 0.25].entries()) {
      // Two forwards of a step: the larger amax counts.
      const xs = [input(10 + i, size), input(20 + i, size / 2)]
      const ys = await step(recipe, (fp8) => xs.map((x) => part.run(x, { fp8 })))
      const scale = (value: number) => f32(Float32Array.of(value), [1])
      const want = linear({ x: quantize({ x: xs[0]!, granularity: 'tensor', scale: scale(states.input.scale) }), weight: quantize({ x: part.weight.tensor, granularity: 'tensor', scale: scale(states.weight.scale) }), dtype: 'f32' })
      expect(await values(ys[0]!)).toEqual(await values(want))
      const seen = Math.max(...(await Promise.all(xs.map(async (x) => largest(await x.toFloat32Array())))))
      states = {
        input: updateDelayedScaling(recordAmax(states.input, seen), recipe, FP8_MAX.e4m3),
        weight: updateDelayedScaling(recordAmax(states.weight, largest(w)), recipe, FP8_MAX.e4m3),
      }
      for (const role of ['input', 'weight'] as const) {
        const state = part.recipeState[role]!
        expect(await values(state.amaxHistory)).toEqual([...states[role].amaxHistory])
        expect(await values(state.scale)).toEqual([states[role].scale])
      }
    }
    part.dispose()
  })

  it('while calibrating records and quantizes nothing', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 2 })
    const part = make()
    const x = input(1)
    const plain = await values(part.run(x))
    expect(await values(await step(recipe, (fp8) => part.run(x, { fp8 }), { enabled: false, calibrating: true }))).toEqual(plain)
    expect(await values(part.recipeState.input!.scale)).toEqual([Math.fround(448 / largest(await x.toFloat32Array()))])
    expect(await values(await step(recipe, (fp8) => part.run(x, { fp8 })))).not.toEqual(plain)
    part.dispose()
  })

  it('is updated once, when the outermost context ends, and not after a failure', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 4 })
    const part = make()
    let outer: AutocastContext | undefined
    autocast({ recipe }, (ctx) => {
      outer = ctx
      part.run(input(1), { fp8: ctx }).dispose()
      autocast({ recipe, within: ctx }, (inner) => part.run(input(2, 3), { fp8: inner })).dispose()
      // Not updated in between: the same state goes on.
      part.run(input(3), { fp8: ctx }).dispose()
    })
    await outer!.settled
    const top = largest(await input(2, 3).toFloat32Array())
    expect(await values(part.recipeState.input!.amaxHistory)).toEqual([0, 0, 0, top])
    expect(() => autocast({ recipe }, (fp8) => {
      part.run(input(4, 9), { fp8 }).dispose()
      throw new Error('stop')
    })).toThrowError('stop')
    expect((await values(part.recipeState.input!.amaxHistory)).slice(1)).toEqual([0, 0, top])
    part.dispose()
  })

  it('refuses to run on scales whose update is in flight, and with a context that has ended', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 2 })
    const part = make()
    let held: AutocastContext | undefined
    autocast({ recipe }, (fp8) => part.run(input(1), { fp8: (held = fp8) })).dispose()
    expect(() => autocast({ recipe }, (fp8) => part.run(input(1), { fp8 }))).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', received: 'an update in flight' }))
    await held!.settled
    expect(() => part.run(input(1), { fp8: held! })).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', received: 'one that has ended' }))
    part.dispose()
  })
})

describe('autocast', () => {
  it.each<[Recipe, 'tensor' | 'block1x128', 'tensor' | 'block128x128']>([[new Float8CurrentScaling({ usePower2Scales: true }), 'tensor', 'tensor'], [new Float8BlockScaling(), 'block1x128', 'block128x128']])('quantizes both operands by the recipe: %o', async (recipe, x8, w8) => {
    const part = make()
    const x = input(2)
    const want = linear({ x: quantize({ x, granularity: x8, powerOf2: true }), weight: quantize({ x: part.weight.tensor, granularity: w8, powerOf2: true }), dtype: 'f32' })
    expect(await values(await step(recipe, (fp8) => part.run(x, { fp8 })))).toEqual(await values(want))
    part.dispose()
  })

  it('is seen by nobody but those it is passed to', async () => {
    const part = make()
    const x = input(3)
    const plain = await values(part.run(x))
    autocast({ recipe: 'current' }, () => {
      void autocast({ recipe: 'block' }, (fp8) => part.run(x, { fp8 }))
      return part.run(x)
    })
    expect(await values(autocast({ recipe: 'current' }, () => part.run(x)))).toEqual(plain)
    expect(await values(autocast({ enabled: false, recipe: 'current' }, (fp8) => part.run(x, { fp8 })))).toEqual(plain)
    part.dispose()
  })

  it('refuses a function that returns a promise', () => {
    expect(() => autocast({ recipe: 'current' }, async () => Promise.reject(new Error('late')))).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'fn' }))
  })

  it('keeps the weight of the first microbatch', async () => {
    const recipe = new Float8CurrentScaling()
    const part = make()
    const x = input(4)
    const run = async (isFirstMicrobatch?: boolean) => values(await step(recipe, (fp8) => part.run(x, { fp8 }), isFirstMicrobatch === undefined ? {} : { isFirstMicrobatch }))
    await expect(run(false)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'isFirstMicrobatch' })
    const first = await run(true)
    part.weight.randomize(99, 1, [0])
    expect(await run(false)).toEqual(first)
    const fresh = await run()
    expect(fresh).not.toEqual(first)
    expect(await run(false)).toEqual(first)
    expect(await run(true)).toEqual(fresh)
    expect(await run(false)).toEqual(fresh)
    part.dispose()
  })

  it('reaches every projection of a layer, and frees what it made', async () => {
    const layer = new TransformerLayer({ device, hiddenSize: 64, ffnHiddenSize: 96, numAttentionHeads: 4, normalization: 'RMSNorm', activation: 'swiglu', bias: false })
    const x = f32(noise(3 * 64, 1), [1, 3, 64])
    const recipe = new DelayedScaling({ amaxHistoryLen: 2 })
    const y = await step(recipe, (fp8) => layer.forward(x, { fp8 }))
    for (const [name, part] of layer.linears()) expect([name, part.recipeState.input !== undefined]).toEqual([name, true])
    expect(await values(y)).not.toEqual(await values(layer.forward(x)))
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    ;(await step(recipe, (fp8) => layer.forward(x, { fp8 }))).dispose()
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
    layer.dispose()
  })
})

describe('quantizedModelInit', () => {
  it('makes weights of FP8 alone, equal to quantizing the plain ones, for autocasts of the same recipe', async () => {
    const recipe = new Float8BlockScaling()
    const options = { device, inFeatures: K, outFeatures: N, bias: false, seed: 5, initStd: 1 }
    const part = quantizedModelInit({ recipe }, (init) => new Linear({ ...init, ...options }))
    expect([part.weight.dtype, quantizedModelInit({ recipe, enabled: false }, (init) => new Linear({ ...init, ...options })).weight.dtype]).toEqual(['e4m3', 'f32'])
    const x = input(6)
    const plain = make()
    expect(await values(autocast({ recipe }, (fp8) => part.run(x, { fp8 })))).toEqual(await values(autocast({ recipe }, (fp8) => plain.run(x, { fp8 }))))
    expect(() => autocast({ recipe: 'current' }, (fp8) => part.run(x, { fp8 }))).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'recipe' }))
    for (const p of [part, plain]) p.dispose()
  })
})
