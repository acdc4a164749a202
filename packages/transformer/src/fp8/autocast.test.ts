import { DelayedScaling, Float8BlockScaling, Float8CurrentScaling, FP8_MAX, initialDelayedState, recordAmax, updateDelayedScaling, type DelayedState, type Recipe } from '@octet-llm/fp8-recipe'
import { linear, openDevice, quantize, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { Linear } from '../linear.js'
import { noise } from '../testing/layer.test.util.js'
import { TransformerLayer } from '../transformer-layer.js'
import { Workspace } from '../workspace.js'
import { autocast, type AutocastContext } from './autocast.js'
import { quantizedModelInit } from './quantized-model-init.js'
import { exportRecipeState, importRecipeState, type RecipeStateReader } from './recipe-state-file.js'
import { DelayedTensor } from './recipe-state.js'

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

  it('is updated on the device, exactly as the rule over random traces with zeros, infinities and NaN', async () => {
    const sizes = [0, 1e-38, 0.02, 1, 3, 448, 1e30, Infinity, NaN]
    for (const [seed, recipe] of [new DelayedScaling({ amaxHistoryLen: 5 }), new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo: 'most_recent', margin: 2 }), new DelayedScaling({ amaxHistoryLen: 1 })].entries()) {
      const state = new DelayedTensor(device, recipe)
      let want = initialDelayedState(recipe)
      for (const [i, draw] of noise(120, seed + 1).entries()) {
        // Two tensors a step, of which NaN wins; sometimes none.
        const seen = i % 7 === 6 ? [] : [sizes[Math.floor((draw + 1) * 1e4) % sizes.length]!, sizes[Math.floor((draw + 1) * 1e6) % sizes.length]!]
        for (const size of seen) {
          const x = f32(Float32Array.of(-size, 0), [1, 2])
          state.record(x)
          x.dispose()
          want = recordAmax(want, size)
        }
        expect(state.update()).toBeUndefined()
        want = updateDelayedScaling(want, recipe, FP8_MAX.e4m3)
        expect([i, ...(await values(state.amaxHistory))]).toEqual([i, ...want.amaxHistory])
        expect([i, ...(await values(state.scale))]).toEqual([i, want.scale])
      }
      state.dispose()
    }
  })

  it('with functions of one’s own is updated by the host, by the same rule', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo: (history) => history.reduce((a, b) => a + b, 0), scalingFactorComputeAlgo: (amax, old, max) => (old + max / amax) / 2 })
    const part = make()
    let want = initialDelayedState(recipe)
    for (const size of [1, 4, 2]) {
      const x = input(3, size)
      ;(await step(recipe, (fp8) => part.run(x, { fp8 }))).dispose()
      want = updateDelayedScaling(recordAmax(want, largest(await x.toFloat32Array())), recipe, FP8_MAX.e4m3)
      expect(await values(part.recipeState.input!.amaxHistory)).toEqual([...want.amaxHistory])
      expect(await values(part.recipeState.input!.scale)).toEqual([want.scale])
    }
    part.dispose()
  })

  it('a failing function of one’s own shows at settled, and the modules run on', async () => {
    const boom = new Error('boom')
    const recipe = new DelayedScaling({ amaxHistoryLen: 2, amaxComputeAlgo: () => { throw boom } })
    const part = make()
    await expect(step(recipe, (fp8) => part.run(input(1), { fp8 }).dispose())).rejects.toBe(boom)
    autocast({ recipe: 'current' }, (fp8) => part.run(input(1), { fp8 })).dispose()
    part.dispose()
  })

  it.each([[undefined], [true]])('a captured step with its update replays as eager steps, to the bit: isFirstMicrobatch %s', async (first) => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 4 })
    const run = async (captured: boolean): Promise<number[][]> => {
      const part = make()
      const x = input(1)
      const workspace = new Workspace(device)
      const options = first === undefined ? {} : { isFirstMicrobatch: first }
      const once = (): Tensor => autocast({ recipe, ...options }, (fp8) => part.run(x, { fp8, workspace }))
      once().dispose()
      // A first microbatch keeps its weight outside the graph; the captured ones take it.
      const next = (): Tensor => autocast({ recipe, ...(first === undefined ? {} : { isFirstMicrobatch: false }) }, (fp8) => part.run(x, { fp8, workspace }))
      const graph = captured ? device.queue.capture(next) : undefined
      const seen: number[][] = []
      for (const size of [1, 9, 0.5, 0, 2, 2, 2]) {
        x.write(noise(6 * K, 7).map((v) => v * size))
        graph?.replay()
        const y = graph?.value ?? next()
        const { input: state, weight } = part.recipeState
        seen.push([...(await values(y)), ...(await values(state!.amaxHistory)), ...(await values(state!.scale)), ...(await values(weight!.scale))])
        if (graph === undefined) y.dispose()
      }
      await graph?.dispose()
      for (const owner of [part, x, workspace]) owner.dispose()
      return seen
    }
    expect(await run(true)).toEqual(await run(false))
  })

  it('refuses to run on scales that the host is updating, and with a context that has ended', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 2, amaxComputeAlgo: (history) => history[0]! })
    const part = make()
    let held: AutocastContext | undefined
    autocast({ recipe }, (fp8) => part.run(input(1), { fp8: (held = fp8) })).dispose()
    expect(() => autocast({ recipe }, (fp8) => part.run(input(1), { fp8 }))).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', received: 'an update in flight' }))
    await held!.settled
    ;(await step(recipe, (fp8) => part.run(input(1), { fp8 }))).dispose()
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

  it('nests with other recipes, and around two layers at once, each by its own', async () => {
    const layer = (seed: number) => new TransformerLayer({ device, hiddenSize: 64, ffnHiddenSize: 96, numAttentionHeads: 4, seed, initStd: 0.3 })
    const [a, b] = [layer(1), layer(2)]
    const x = f32(noise(3 * 64, 1), [1, 3, 64])
    const delayed = new DelayedScaling({ amaxHistoryLen: 2 })
    const alone = {
      a: await values(autocast({ recipe: 'current' }, (fp8) => a.forward(x, { fp8 }))),
      b: await values(autocast({ recipe: 'block' }, (fp8) => b.forward(x, { fp8 }))),
      plain: await values(a.forward(x)),
    }
    expect(alone.a).not.toEqual(alone.plain)
    const kept: Record<string, Tensor> = {}
    autocast({ recipe: 'current' }, (outer) => {
      autocast({ recipe: 'block', within: outer }, (inner) => {
        // Both contexts are open; each forward follows the one that it is given.
        kept['b'] = b.forward(x, { fp8: inner })
        kept['a'] = a.forward(x, { fp8: outer })
        kept['plain'] = autocast({ enabled: false, within: inner }, (off) => a.forward(x, { fp8: off }))
        autocast({ recipe: delayed, within: inner }, (fp8) => b.forward(x, { fp8 })).dispose()
        // Its scales wait for the outermost context.
        kept['again'] = a.forward(x, { fp8: outer })
      })
    })
    for (const name of ['a', 'b', 'plain'] as const) expect([name, ...(await values(kept[name]!))]).toEqual([name, ...alone[name]])
    expect(await values(kept['again']!)).toEqual(alone.a)
    for (const [, part] of b.linears()) expect(await values(part.recipeState.input!.scale)).not.toEqual([1])
    for (const [, part] of a.linears()) expect(part.recipeState.input).toBeUndefined()
    for (const part of [a, b]) part.dispose()
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

describe('saved recipe state', () => {
  const recipe = new DelayedScaling({ amaxHistoryLen: 3 })
  const layer = () => new TransformerLayer({ device, hiddenSize: 64, ffnHiddenSize: 96, numAttentionHeads: 4, seed: 2 })
  const x = (seed: number) => f32(noise(3 * 64, seed).map((v) => v * seed), [1, 3, 64])
  const run = (part: TransformerLayer, seed: number) => values(autocast({ recipe }, (fp8) => part.forward(x(seed), { fp8 })))

  /** What a file of the state would hold. */
  async function saved(part: TransformerLayer): Promise<{ tensors: Map<string, { shape: readonly number[] }>; values: Map<string, Float32Array> } & RecipeStateReader> {
    const [tensors, held] = [new Map<string, { shape: readonly number[] }>(), new Map<string, Float32Array>()]
    for (const { name, shape, dtype, data } of exportRecipeState(part)) {
      expect(dtype).toBe('f32')
      tensors.set(name, { shape })
      for await (const bytes of data()) held.set(name, new Float32Array(bytes.slice().buffer))
    }
    return { tensors, values: held, readFloat32: async (name) => held.get(name)! }
  }

  it('goes on as if the steps had never stopped', async () => {
    const [steady, first, second] = [layer(), layer(), layer()]
    expect(exportRecipeState(first)).toEqual([])
    for (const seed of [3, 1]) expect(await run(first, seed)).toEqual(await run(steady, seed))
    const state = await saved(first)
    expect([...state.tensors].filter(([name]) => name.startsWith('layernorm_mlp.fc2'))).toEqual([['layernorm_mlp.fc2.input.scale', { shape: [1] }], ['layernorm_mlp.fc2.input.amax_history', { shape: [3] }], ['layernorm_mlp.fc2.weight.scale', { shape: [1] }], ['layernorm_mlp.fc2.weight.amax_history', { shape: [3] }]])
    expect(state.tensors.size).toBe(16)
    await importRecipeState(second, recipe, state)
    for (const seed of [2, 5, 1]) expect(await run(second, seed)).toEqual(await run(steady, seed))
    expect(await saved(second)).toMatchObject({ values: (await saved(steady)).values })
    for (const part of [steady, first, second]) part.dispose()
  })

  it('is refused where it does not fit, and nothing changes', async () => {
    const part = layer()
    await run(part, 3)
    const before = await saved(part)
    const fails = async (change: (state: Awaited<ReturnType<typeof saved>>) => void, said: string, by = recipe) => {
      const state = await saved(part)
      change(state)
      await expect(importRecipeState(part, by, state)).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH', received: expect.stringContaining(said) as string })
    }
    await fails((state) => state.tensors.set('layernorm_mlp.fc3.input.scale', { shape: [1] }), 'the module has no layernorm_mlp.fc3')
    await fails((state) => state.tensors.set('other', { shape: [1] }), 'the module has no other')
    await fails((state) => state.tensors.delete('layernorm_mlp.fc2.weight.scale'), 'layernorm_mlp.fc2.weight.scale is missing')
    await fails((state) => state.tensors.set('layernorm_mlp.fc2.weight.scale', { shape: [2] }), 'expected [1], received [2]')
    await fails(() => undefined, 'expected [5], received [3]', new DelayedScaling({ amaxHistoryLen: 5 }))
    for (const wrong of [0, -1, NaN, Infinity]) await fails((state) => state.values.set('layernorm_mlp.fc2.weight.scale', Float32Array.of(wrong)), `above 0, received ${wrong}`)
    expect((await saved(part)).values).toEqual(before.values)
    part.dispose()
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
