import { OctetError } from '@octet-llm/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from './device.js'
import { add } from './ops/add.js'
import { copy } from './ops/copy.js'
import { embedding } from './ops/embedding.js'
import { fill } from './ops/fill.js'
import { scale } from './ops/scale.js'
import { Tensor } from './tensor.js'
import type { Queue } from './queue.js'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
})
afterAll(() => device.dispose())

async function failure(promise: Promise<unknown> | (() => unknown)): Promise<OctetError> {
  try {
    await (typeof promise === 'function' ? promise() : promise)
  } catch (error) {
    if (OctetError.is(error)) return error
    throw error
  }
  throw new Error('expected an OctetError')
}

/**
 * Keeps `queue` busy: finds how many ops are still running after a turn of the event loop, and leaves many times as many
 * pending.
 */
async function busy(queue: Queue, big: Tensor): Promise<void> {
  for (let ops = 4; ops < 1 << 16; ops *= 2) {
    for (let i = 0; i < ops; i++) fill({ out: big, value: i, queue })
    await new Promise(setImmediate)
    if (queue.pending < 2) continue
    for (let i = 0; i < 20 * ops; i++) fill({ out: big, value: i, queue })
    return
  }
  throw new Error('the queue is never busy')
}

const bad = (queue?: Queue): Tensor => {
  const ids = Tensor.from([99], { dtype: 'i32', device })
  const table = Tensor.zeros([4, 2], { dtype: 'f32', device })
  const out = embedding({ ids, table, ...(queue === undefined ? {} : { queue }) })
  ids.dispose()
  table.dispose()
  return out
}

describe('order', () => {
  it('runs ops one after another, however fast they are enqueued', async () => {
    using x = Tensor.zeros([100], { dtype: 'f32', device })
    using one = Tensor.zeros([100], { dtype: 'f32', device })
    fill({ out: one, value: 1 })
    // x = 2x + 1, twenty times: any swap or loss shows.
    for (let i = 0; i < 20; i++) {
      scale({ x, factor: 2, out: x })
      add({ a: x, b: one, out: x })
    }
    expect((await x.toFloat32Array()).every((v) => v === 2 ** 20 - 1)).toBe(true)
  })

  it('keeps writes, ops and reads in their places', async () => {
    using x = Tensor.zeros([2000], { dtype: 'f32', device })
    const reads: Promise<Float32Array>[] = []
    for (let i = 0; i < 50; i++) {
      x.write(new Float32Array(2000).fill(i))
      scale({ x, factor: 3, out: x })
      reads.push(x.toFloat32Array())
    }
    const all = await Promise.all(reads)
    all.forEach((values, i) => expect(values.every((v) => v === 3 * i)).toBe(true))
  })

  it('survives a million small commands without waiting', { timeout: 120_000 }, async () => {
    using x = Tensor.zeros([1], { dtype: 'f32', device })
    using one = Tensor.from([1], { dtype: 'f32', device })
    const start = device.queue.enqueued
    for (let i = 0; i < 200_000; i++) add({ a: x, b: one, out: x })
    expect(device.queue.enqueued - start).toBe(200_000)
    expect((await x.toFloat32Array())[0]).toBe(200_000)
    expect(device.queue.pending).toBe(0)
  })

  it('lets memory be reused while ops that use it still wait', async () => {
    using big = Tensor.zeros([1 << 22], { dtype: 'f32', device })
    await busy(device.queue, big)
    const results: Promise<Float32Array>[] = []
    for (let i = 0; i < 40; i++) {
      const t = Tensor.empty([5000], { dtype: 'f32', device })
      fill({ out: t, value: i })
      const doubled = scale({ x: t, factor: 2 })
      t.dispose()
      results.push(doubled.toFloat32Array())
      doubled.dispose()
    }
    const all = await Promise.all(results)
    all.forEach((values, i) => expect(values.every((v) => v === 2 * i)).toBe(true))
  })
})

describe('the event loop', () => {
  it('turns while an op runs: timers, promises and other queues go on', async () => {
    using big = Tensor.zeros([1 << 22], { dtype: 'f32', device })
    using small = Tensor.from([1], { dtype: 'f32', device })
    const other = device.createQueue()
    await device.synchronize()
    await busy(device.queue, big)
    const sync = device.queue.synchronize()
    let settled = false
    void sync.then(() => (settled = true))
    const pendingBefore = device.queue.pending
    const turns = await new Promise<number>((resolve) => {
      let n = 0
      const turn = (): void => (++n === 5 ? resolve(n) : void setImmediate(turn))
      setImmediate(turn)
    })
    const twice = scale({ x: small, factor: 2, queue: other })
    const elsewhere = await twice.toFloat32Array(other)
    expect({ turns, settled, busy: pendingBefore > 0 && device.queue.pending > 0, elsewhere: elsewhere[0] }).toEqual({ turns: 5, settled: false, busy: true, elsewhere: 2 })
    await sync
    expect(device.queue.pending).toBe(0)
    twice.dispose()
    await other.dispose()
  })
})

describe('events', () => {
  it('order two queues', async () => {
    const other = device.createQueue()
    using big = Tensor.zeros([1 << 22], { dtype: 'f32', device })
    using x = Tensor.zeros([8], { dtype: 'f32', device })
    using y = Tensor.empty([8], { dtype: 'f32', device, queue: other })
    for (let round = 1; round <= 20; round++) {
      fill({ out: big, value: round })
      fill({ out: x, value: round })
      other.wait(device.queue.record())
      copy({ x, out: y, queue: other })
      device.queue.wait(other.record())
      fill({ out: x, value: -1 })
      expect((await y.toFloat32Array(other)).every((v) => v === round)).toBe(true)
    }
    await other.dispose()
  })

  it('a wait holds a queue until the event is reached, and tells when', async () => {
    const other = device.createQueue()
    using big = Tensor.zeros([1 << 22], { dtype: 'f32', device })
    await busy(device.queue, big)
    const event = device.queue.record()
    other.wait(event)
    const passed = other.record()
    expect([event.done, passed.done]).toEqual([false, false])
    await other.synchronize()
    expect([event.done, passed.done]).toEqual([true, true])
    await other.dispose()
  })

  it('memory used on another queue is not reused before that queue is done', async () => {
    const other = device.createQueue()
    using big = Tensor.zeros([1 << 22], { dtype: 'f32', device })
    await device.synchronize()
    const x = Tensor.from(new Float32Array(3_000_000).fill(7), { dtype: 'f32', device })
    await device.synchronize()
    await busy(other, big)
    const late = copy({ x, queue: other, out: Tensor.empty([3_000_000], { dtype: 'f32', device, queue: other }) })
    x.dispose()
    using next = Tensor.empty([3_000_000], { dtype: 'f32', device })
    expect(next.address).toBe(x.address)
    fill({ out: next, value: 1 })
    expect((await late.toFloat32Array(other)).every((v) => v === 7)).toBe(true)
    late.dispose()
    await device.synchronize()
    await other.dispose()
  })

  it('of another device are refused', async () => {
    const second = await openDevice('cpu', { threads: 1 })
    expect((await failure(() => device.queue.wait(second.queue.record()))).code).toBe('INVALID_ARGUMENT')
    await second.dispose()
  })
})

describe('deferred failures', () => {
  it('reject at the next sync, name the op and its place, and are gone after', async () => {
    const place = device.queue.enqueued + 1 + 1 // the ids are written and the table is zeroed before the op
    const out = bad()
    const error = await failure(device.queue.synchronize())
    expect(error.code).toBe('OP_FAILED')
    expect(error.op).toBe('embedding')
    expect(error.message).toContain(`command ${place} `)
    await device.queue.synchronize()
    expect((await out.toFloat32Array()).length).toBe(2)
    out.dispose()
  })

  it('reject every read that was under way, and skip the ops behind them', async () => {
    using x = Tensor.from([1], { dtype: 'f32', device })
    await device.queue.synchronize()
    bad().dispose()
    fill({ out: x, value: 5 })
    const [a, b, c] = [failure(x.toFloat32Array()), failure(device.queue.synchronize()), failure(device.synchronize())]
    expect((await a).op).toBe('embedding')
    expect((await b).op).toBe('embedding')
    expect((await c).op).toBe('embedding')
    expect([...(await x.toFloat32Array())]).toEqual([1])
  })

  it('are told once for each failure', async () => {
    for (let i = 0; i < 3; i++) {
      bad().dispose()
      expect((await failure(device.queue.synchronize())).code).toBe('OP_FAILED')
      await device.queue.synchronize()
    }
  })

  it('reach a queue that waits for the failed one', async () => {
    const other = device.createQueue()
    bad(other).dispose()
    device.queue.wait(other.record())
    expect((await failure(device.queue.synchronize())).op).toBe('embedding')
    expect((await failure(other.synchronize())).op).toBe('embedding')
    await device.synchronize()
    await other.dispose()
  })

  it('do not stop dispose()', async () => {
    const other = device.createQueue()
    bad(other).dispose()
    await other.dispose()
    await device.synchronize()
  })
})

describe('a disposed queue', () => {
  it('refuses everything and disposes again in silence', async () => {
    const queue = device.createQueue()
    using x = Tensor.zeros([2], { dtype: 'f32', device })
    await queue.dispose()
    await queue.dispose()
    expect(queue.disposed).toBe(true)
    expect(queue.pending).toBe(0)
    const calls: Record<string, () => unknown> = {
      synchronize: () => queue.synchronize(),
      record: () => queue.record(),
      wait: () => queue.wait(device.queue.record()),
      capture: () => queue.capture(() => 0),
      op: () => fill({ out: x, value: 1, queue }),
      read: () => x.toBytes(queue),
      empty: () => Tensor.empty([1], { dtype: 'f32', device, queue }),
    }
    for (const [name, call] of Object.entries(calls)) expect([name, (await failure(async () => call())).code]).toEqual([name, 'DISPOSED'])
  })

  it('lets tensors whose home it was live on and be freed', async () => {
    const queue = device.createQueue()
    const x = Tensor.zeros([300_000], { dtype: 'f32', device, queue })
    const before = device.memoryStats().allocations
    await queue.dispose()
    expect((await x.toFloat32Array()).every((v) => v === 0)).toBe(true)
    x.dispose()
    expect(device.memoryStats().allocations).toBe(before - 1)
  })

  it("cannot be the device's own", async () => {
    expect((await failure(device.queue.dispose())).code).toBe('INVALID_ARGUMENT')
  })
})
