import { DelayedScaling } from '@octet-llm/fp8-recipe'
import { add, openDevice, sample, scale, scope, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'

import { autocast, type AutocastContext } from './fp8/autocast.js'
import { resolveFp8, type Fp8Option } from './fp8/inference.js'
import { makeGraphedCallables } from './graphed-callables.js'
import { Linear } from './linear.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { noise } from './testing/layer.test.util.js'
import { TransformerLayer } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

let begin: { allocatedBytes: number; allocations: number }
const memory = async () => {
  await device.synchronize()
  const { allocatedBytes, allocations } = device.memoryStats()
  return { allocatedBytes, allocations }
}
beforeEach(async () => void (begin = await memory()))
afterEach(async () => expect(await memory()).toEqual(begin))

const tensor = (seed: number, shape: readonly number[], dtype: 'f32' | 'bf16' = 'f32') => Tensor.from(noise(shape.reduce((n, d) => n * d, 1), seed), { shape, dtype, device })
const bytes = async (t: Tensor) => Buffer.from(await t.toBytes())
const refusal = (fn: () => unknown): { code?: string; argument?: string; message?: string } => {
  try {
    fn()
  } catch (error) {
    return error as { code: string }
  }
  return {}
}
const disposeAll = async (...owners: readonly { dispose(): unknown }[]) => {
  for (const owner of owners) await owner.dispose()
}

describe('makeGraphedCallables', () => {
  it.each<['f32' | 'bf16', Fp8Option | undefined]>([['f32', undefined], ['bf16', undefined], ['f32', true], ['bf16', true], ['bf16', 'block'], ['bf16', 'current']])('several layers, %s, fp8 %s: new inputs give the bits of eager calls', async (dtype, fp8) => {
    const layers = [1, 2].map((layerNumber) => new TransformerLayer({
      device, dtype, fp8: resolveFp8(fp8, false), hiddenSize: 136, ffnHiddenSize: 144, numAttentionHeads: 4, kvChannels: 16, normalization: 'RMSNorm', activation: 'swiglu', bias: false, layerNumber, initStd: 0.2,
    })) as [TransformerLayer, TransformerLayer]
    const forward = (layer: TransformerLayer) => (x: Tensor) => layer.forward(x)
    const samples = [tensor(1, [2, 5, 136], dtype), tensor(2, [1, 3, 136], dtype)] as const
    const [first, second] = makeGraphedCallables([forward(layers[0]), forward(layers[1])], [[samples[0]], [samples[1]]])
    for (let seed = 10; seed < 14; seed++) {
      const [x, y] = [tensor(seed, [2, 5, 136], dtype), tensor(seed + 50, [1, 3, 136], dtype)]
      const [ex, ey] = [layers[0].forward(x), layers[1].forward(y)]
      // Interleaved, and twice: a replay leaves nothing for the next.
      for (let i = 0; i < 2; i++) expect([await bytes(first(x)), await bytes(second(y))]).toEqual([await bytes(ex), await bytes(ey)])
      await disposeAll(x, y, ex, ey)
    }
    // The samples are the caller's and as they were.
    expect([...(await samples[0].toFloat32Array())]).toEqual([...(await tensorValues(1, [2, 5, 136], dtype))])
    await disposeAll(first, second, ...samples, ...layers)
  })

  it.each(['bshd', 'sbhd'] as const)('a layer with pads and RoPE in %s: what the forward uploads of the shape is made before the recording', async (attnInputFormat) => {
    const layer = new TransformerLayer({ device, dtype: 'f32', hiddenSize: 32, ffnHiddenSize: 48, numAttentionHeads: 4, attnInputFormat, initStd: 0.3 })
    const rotaryPosEmb = new RotaryPositionEmbedding({ device, dim: 8 })
    const attentionMask = [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    const forward = (x: Tensor) => layer.forward(x, { rotaryPosEmb, attentionMask, selfAttnMaskType: 'padding_causal' })
    const shape = attnInputFormat === 'bshd' ? [2, 5, 32] : [5, 2, 32]
    const x = tensor(1, shape)
    const [call] = makeGraphedCallables([forward], [[x]], { warmup: 1 })
    for (let seed = 2; seed < 5; seed++) {
      const y = tensor(seed, shape)
      const want = forward(y)
      expect(await bytes(call(y))).toEqual(await bytes(want))
      await disposeAll(y, want)
    }
    await disposeAll(call, x, layer, rotaryPosEmb)
  })

  it('runs no JavaScript in a replay: a call is its copies and one command', async () => {
    const body = vi.fn((a: Tensor, b: Tensor) => scope(() => add({ a: scale({ x: a, factor: 2 }), b })))
    const [a, b] = [tensor(1, [64]), tensor(2, [64])]
    const [call] = makeGraphedCallables([body], [[a, b]], { warmup: 2 })
    expect(body).toHaveBeenCalledTimes(3)
    const enqueued = (...args: [Tensor, Tensor]) => {
      const before = device.queue.enqueued
      call(...args)
      return device.queue.enqueued - before
    }
    expect([enqueued(a, b), enqueued(call.inputs[0], b), enqueued(...call.inputs)]).toEqual([3, 2, 1])
    expect(body).toHaveBeenCalledTimes(3)
    call.inputs[0].write(new Float32Array(64).fill(3))
    call.inputs[1].write(new Float32Array(64).fill(1))
    expect((await call(...call.inputs).toFloat32Array()).every((v) => v === 7)).toBe(true)
    await disposeAll(call, a, b)
  })

  it('returns what the callable returns: arrays and objects of tensors, the same ones every time', async () => {
    const x = tensor(3, [8])
    const [call] = makeGraphedCallables([(t: Tensor) => ({ twice: scale({ x: t, factor: 2 }), rest: [scale({ x: t, factor: 3 })] as const })], [[x]])
    const first = call(x)
    const second = call(x)
    expect(second).toBe(first)
    const values = await x.toFloat32Array()
    expect([[...(await first.twice.toFloat32Array())], [...(await first.rest[0].toFloat32Array())]]).toEqual([[...values.map((v) => 2 * v)], [...values.map((v) => Math.fround(3 * v))]])
    await disposeAll(call, x)
    expect(first.twice.disposed).toBe(true)
  })

  it('leaves recipe state alone while it warms up, and replays change it as eager steps do', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 4 })
    const [graphed, eager] = [0, 1].map(() => new Linear({ device, inFeatures: 24, outFeatures: 16, bias: false, seed: 5, initStd: 1 })) as [Linear, Linear]
    const stateOf = (part: Linear) => (['input', 'weight'] as const).flatMap((name) => [part.recipeState[name]!.amaxHistory, part.recipeState[name]!.scale])
    const values = async (part: Linear) => Promise.all(stateOf(part).map(async (t) => [...(await t.toFloat32Array())]))
    const x = tensor(7, [3, 24])
    const loud = tensor(8, [3, 24])
    loud.write(noise(72, 8).map((v) => 100 * v))
    // One step each makes the state and settles its scales.
    for (const part of [graphed, eager]) await autocastStep(recipe, part, x)
    const before = await values(graphed)
    expect(before).toEqual(await values(eager))
    const { result: call, settled } = settling(recipe, (fp8) => makeGraphedCallables([(t: Tensor) => graphed.run(t, { fp8 })], [[loud]], { state: stateOf(graphed) })[0])
    await settled
    // An update that finds no amax changes nothing: the warm-ups have left none.
    expect(await values(graphed)).toEqual(before)
    const got = call(x)
    const { result: want } = settling(recipe, (fp8) => eager.run(x, { fp8 }))
    expect(await bytes(got)).toEqual(await bytes(want))
    expect((await graphed.recipeState.input!.amaxHistory.toFloat32Array())[0]).toBe(Math.max(...(await x.toFloat32Array()).map(Math.abs)))
    await call.dispose()
    await disposeAll(x, loud, want, graphed, eager)
  })

  it.each(['max', 'most_recent'] as const)('a whole step of delayed scaling is recorded, its update too: amaxes, scales and results over steps are those of eager ones (%s)', async (amaxComputeAlgo) => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo })
    const [graphed, eager] = [0, 1].map(() => new Linear({ device, inFeatures: 24, outFeatures: 16, bias: false, seed: 5, initStd: 1 })) as [Linear, Linear]
    const states = (part: Linear) => (['input', 'weight'] as const).flatMap((name) => [part.recipeState[name]!.amaxHistory, part.recipeState[name]!.scale])
    const step = (part: Linear) => (x: Tensor) => autocast({ recipe }, (fp8) => part.run(x, { fp8 }))
    const first = tensor(1, [3, 24])
    for (const part of [graphed, eager]) step(part)(first).dispose()
    const [call] = makeGraphedCallables([step(graphed)], [[first]], { state: states(graphed) })
    for (const [seed, gain] of [[2, 1], [3, 50], [4, 0], [5, 0.1], [6, 1], [7, 1]] as const) {
      const x = tensor(seed, [3, 24])
      x.write(noise(72, seed).map((v) => gain * v))
      const want = step(eager)(x)
      expect(await bytes(call(x))).toEqual(await bytes(want))
      expect(await Promise.all(states(graphed).map(bytes))).toEqual(await Promise.all(states(eager).map(bytes)))
      await disposeAll(x, want)
    }
    await disposeAll(call, first, graphed, eager)
  })

  it('puts state back when a warm-up throws', async () => {
    const counter = tensor(1, [4])
    const before = await bytes(counter)
    const grow = (x: Tensor): Tensor => {
      add({ a: counter, b: x, out: counter })
      throw new Error('later')
    }
    const x = tensor(2, [4])
    expect(refusal(() => makeGraphedCallables([grow], [[x]], { state: [counter] }))).toMatchObject({ message: 'later' })
    expect(await bytes(counter)).toEqual(before)
    await disposeAll(counter, x)
  })

  it('needs nothing of random numbers: draws are functions of seed, sequence and position', async () => {
    const logits = tensor(4, [2, 50])
    const [ids, positions] = [[0, 1], [5, 9]].map((list) => Tensor.from(Int32Array.from(list), { shape: [2], dtype: 'i32', device })) as [Tensor, Tensor]
    const draw = (x: Tensor, at: Tensor) => sample({ logits: x, sequenceIds: ids, positions: at, seed: 11, temperature: 2 })
    const eager = draw(logits, positions)
    const [call] = makeGraphedCallables([draw], [[logits, positions]], { warmup: 5 })
    for (let i = 0; i < 3; i++) expect(await bytes(call(logits, positions))).toEqual(await bytes(eager))
    positions.write(Int32Array.of(6, 10))
    const next = draw(logits, positions)
    expect(await bytes(call(logits, positions))).toEqual(await bytes(next))
    await call.dispose()
    await disposeAll(logits, ids, positions, eager, next)
  })

  it('a callable may write to its arguments: each call begins from the ones it is given', async () => {
    const x = tensor(5, [16])
    const values = await x.toFloat32Array()
    const [call] = makeGraphedCallables([(t: Tensor) => add({ a: t, b: t, out: t })], [[x]])
    for (let i = 0; i < 3; i++) expect([...(await call(x).toFloat32Array())]).toEqual([...values.map((v) => 2 * v)])
    expect([...(await x.toFloat32Array())]).toEqual([...values])
    await disposeAll(call, x)
  })

  it('refuses arguments that were not recorded, and goes on', async () => {
    const x = tensor(6, [2, 8])
    const [call] = makeGraphedCallables([(t: Tensor) => scale({ x: t, factor: 2 })], [[x]])
    const [wide, half, gone] = [tensor(6, [2, 9]), tensor(6, [2, 8], 'bf16'), tensor(6, [2, 8])]
    gone.dispose()
    expect(refusal(() => call(wide))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'args[0]' })
    expect(refusal(() => call(half))).toMatchObject({ code: 'DTYPE_MISMATCH' })
    expect(refusal(() => call(gone))).toMatchObject({ code: 'DISPOSED' })
    const loose = call as unknown as (...args: Tensor[]) => Tensor
    for (const args of [[], [x, x]]) expect(refusal(() => loose(...args))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'args' })
    expect([...(await call(x).toFloat32Array())]).toEqual([...(await x.toFloat32Array()).map((v) => 2 * v)])
    await disposeAll(call, call, x, wide, half)
    expect(refusal(() => call(x))).toMatchObject({ code: 'DISPOSED' })
  })

  it('refuses options that make no sense', () => {
    const body = (x: Tensor) => scale({ x, factor: 2 })
    using x = tensor(1, [2])
    expect(refusal(() => makeGraphedCallables([body], [] as unknown as [[Tensor]]))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'sampleArgs' })
    for (const warmup of [-1, 0.5, NaN]) expect(refusal(() => makeGraphedCallables([body], [[x]], { warmup }))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'warmup' })
    expect(refusal(() => makeGraphedCallables([() => undefined], [[]]))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'sampleArgs[0]' })
  })

  it('without arguments, on a queue that is given', async () => {
    const other = device.createQueue()
    const x = tensor(9, [32])
    await device.synchronize()
    const [call] = makeGraphedCallables([() => add({ a: x, b: x, out: x })], [[]], { queue: other, warmup: 0 })
    const values = await x.toFloat32Array()
    call()
    call()
    expect([...(await x.toFloat32Array(other))]).toEqual([...values.map((v) => 4 * v)])
    await call.dispose()
    await other.dispose()
    x.dispose()
  })

  it('frees everything: however often it captures, and when a later callable cannot be recorded', async () => {
    const x = tensor(2, [1000])
    const good = (t: Tensor) => scale({ x: t, factor: 2 })
    const host = (t: Tensor) => {
      t.write(new Float32Array(1000))
      return t
    }
    const base = await memory()
    for (let i = 0; i < 5; i++) {
      const calls = makeGraphedCallables([good, good], [[x], [x]])
      for (const call of calls) call(x)
      // Replays in flight are waited for.
      await Promise.all(calls.map((call) => call.dispose()))
      expect(await memory()).toEqual(base)
    }
    expect(refusal(() => makeGraphedCallables([good, host], [[x], [x]]))).toMatchObject({ code: 'CAPTURE_READ' })
    expect(await memory()).toEqual(base)
    x.dispose()
  })
})

async function tensorValues(seed: number, shape: readonly number[], dtype: 'f32' | 'bf16'): Promise<Float32Array> {
  const t = tensor(seed, shape, dtype)
  const values = await t.toFloat32Array()
  t.dispose()
  return values
}

/** One step of a projection under a recipe, its scales settled. */
async function autocastStep(recipe: DelayedScaling, part: Linear, x: Tensor): Promise<void> {
  const { result, settled } = settling(recipe, (fp8) => part.run(x, { fp8 }))
  await settled
  result.dispose()
}

/** autocast, and when the scales it updates are in place. */
function settling<T>(recipe: DelayedScaling, fn: (ctx: AutocastContext) => T): { result: T; settled: Promise<void> } {
  let context: AutocastContext | undefined
  const result = autocast({ recipe }, (fp8) => fn((context = fp8)))
  return { result, settled: context!.settled }
}
