import { OctetError } from '@octet-llm/core'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from './device.js'
import type { Graph } from './graph.js'
import { add } from './ops/add.js'
import { copy } from './ops/copy.js'
import { embedding } from './ops/embedding.js'
import { fill } from './ops/fill.js'
import { scale } from './ops/scale.js'
import { keep, scope } from './scope.js'
import { Tensor } from './tensor.js'
import { upload } from './upload.js'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
})
afterAll(() => device.dispose())
afterEach(async () => {
  await device.synchronize()
  expect(device.capturing).toBeNull()
  expect(device.memoryStats().allocations).toBe(0)
})

function code(fn: () => unknown): string {
  try {
    fn()
  } catch (error) {
    if (OctetError.is(error)) return error.code
    throw error
  }
  return 'no error'
}
async function asyncCode(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'no error',
    (error: unknown) => (OctetError.is(error) ? error.code : String(error)),
  )
}
const numbers = (n: number, at = 0): Tensor => Tensor.from(Float32Array.from({ length: n }, (_, i) => i + at), { dtype: 'f32', device })

/** y = 2x + 1 with a temporary, as a graph. */
function affine(x: Tensor): Graph<Tensor> {
  return device.queue.capture(() =>
    scope(() => {
      const one = Tensor.empty(x.shape, { dtype: 'f32', device })
      fill({ out: one, value: 1 })
      return add({ a: scale({ x, factor: 2 }), b: one })
    }),
  )
}

describe('capture and replay', () => {
  it('records without running and replays in one command', async () => {
    const x = numbers(1000)
    const start = device.queue.enqueued
    const graph = affine(x)
    expect(device.queue.enqueued).toBe(start)
    for (const at of [5, -3, 100]) {
      x.write(Float32Array.from({ length: 1000 }, (_, i) => i + at))
      const before = device.queue.enqueued
      graph.replay()
      expect(device.queue.enqueued).toBe(before + 1)
      const y = await graph.value.toFloat32Array()
      expect(y.every((v, i) => v === 2 * (i + at) + 1)).toBe(true)
    }
    await graph.dispose()
    x.dispose()
  })

  it('gives the bits of the eager run', async () => {
    const x = numbers(5000, 0.3)
    using one = Tensor.empty([5000], { dtype: 'f32', device })
    fill({ out: one, value: 1 })
    using doubled = scale({ x, factor: 2 })
    using eager = add({ a: doubled, b: one })
    const graph = affine(x)
    graph.replay()
    expect(await graph.value.toBytes()).toEqual(await eager.toBytes())
    await graph.dispose()
    x.dispose()
  })

  it('has a pool of its own: temporaries share memory, other tensors never do', async () => {
    const x = numbers(100_000)
    const before = device.memoryStats().allocations
    const addresses = new Set<number>()
    const graph = device.queue.capture(() => {
      let y = scale({ x, factor: 2 })
      for (let i = 0; i < 20; i++) {
        const next = scale({ x: y, factor: 1 })
        addresses.add(next.address)
        y.dispose()
        y = next
      }
      return y
    })
    expect(addresses.size).toBe(2)
    expect(device.memoryStats().allocations).toBe(before + 2)
    graph.replay()
    const noise = [1, 2, 3].map((i) => fill({ out: Tensor.empty([100_000], { dtype: 'f32', device }), value: i }))
    for (const t of noise) expect(addresses.has(t.address)).toBe(false)
    expect((await graph.value.toFloat32Array())[7]).toBe(14)
    for (const t of noise) t.dispose()
    await graph.dispose()
    x.dispose()
  })

  it('still runs the replays that were enqueued before its disposal freed the recording', async () => {
    const x = numbers(200_000)
    const total = Tensor.zeros([200_000], { dtype: 'f32', device })
    const graph = device.queue.capture(() => void add({ a: total, b: x, out: total }))
    for (let i = 0; i < 50; i++) graph.replay()
    const done = graph.dispose()
    expect(() => graph.replay()).toThrow(expect.objectContaining({ code: 'DISPOSED' }))
    await graph.dispose()
    await done
    const sum = await total.toFloat32Array()
    expect([sum[1], sum[199_999]]).toEqual([50, 50 * 199_999])
    for (const t of [x, total]) t.dispose()
  })

  it('takes back all memory, however often it is captured', async () => {
    const x = numbers(300_000)
    for (let i = 0; i < 3; i++) {
      const graph = affine(x)
      graph.replay()
      await graph.dispose()
    }
    const { reservedBytes } = device.memoryStats()
    for (let i = 0; i < 20; i++) {
      const graph = affine(x)
      graph.replay()
      await graph.dispose()
    }
    expect(device.memoryStats()).toMatchObject({ reservedBytes, allocations: 1 })
    x.dispose()
  })

  it('replays on another queue in the order of the calls', async () => {
    const other = device.createQueue()
    using x = numbers(200_000)
    const graph = device.queue.capture(() => add({ a: x, b: x, out: x }))
    // Each replay doubles x: lost order would lose a doubling.
    for (let i = 0; i < 10; i++) graph.replay(i % 2 === 0 ? other : device.queue)
    device.queue.wait(other.record())
    expect((await x.toFloat32Array())[3]).toBe(3 * 1024)
    await graph.dispose()
    await other.dispose()
  })

  it('reports a failure of a replay with the op', async () => {
    const ids = Tensor.from([0], { dtype: 'i32', device })
    const table = numbers(4)
    const wide = table.view([2, 2])
    const graph = device.queue.capture(() => embedding({ ids, table: wide }))
    graph.replay()
    await device.queue.synchronize()
    ids.write([7])
    graph.replay()
    const error = await device.queue.synchronize().catch((e: unknown) => e as OctetError)
    expect(error).toMatchObject({ code: 'OP_FAILED', op: 'embedding' })
    ids.write([1])
    graph.replay()
    expect([...(await graph.value.toFloat32Array())]).toEqual([2, 3])
    await graph.dispose()
    for (const t of [ids, table, wide]) t.dispose()
  })

  it('frees everything when the function throws, and the device goes on', async () => {
    const x = numbers(10)
    expect(() =>
      device.queue.capture(() => {
        scale({ x, factor: 2 })
        throw new Error('inside')
      }),
    ).toThrow('inside')
    expect(device.memoryStats().allocations).toBe(1)
    expect(code(() => x.rows(0, 1).dispose())).toBe('no error')
    expect([...(await x.toFloat32Array())].slice(0, 3)).toEqual([0, 1, 2])
    x.dispose()
  })
})

describe('who owns what', () => {
  it('a tensor that a graph uses cannot be disposed before it', async () => {
    const x = numbers(4)
    const view = x.rows(0, 2)
    const graph = device.queue.capture(() => scale({ x: view, factor: 2 }))
    x.dispose() // the view still holds the memory
    expect(code(() => view.dispose())).toBe('TENSOR_IN_GRAPH')
    expect(view.disposed).toBe(false)
    graph.replay()
    expect([...(await graph.value.toFloat32Array())]).toEqual([0, 2])
    await graph.dispose()
    view.dispose()
  })

  it('two graphs must both be gone', async () => {
    const x = numbers(4)
    const first = affine(x)
    const second = affine(x)
    await first.dispose()
    expect(code(() => x.dispose())).toBe('TENSOR_IN_GRAPH')
    await second.dispose()
    x.dispose()
  })

  it('tensors made inside live and die with the graph', async () => {
    const x = numbers(4)
    let inner: Tensor | undefined
    const graph = device.queue.capture(() => {
      inner = scale({ x, factor: 2 })
      return { y: inner, v: x.rows(0, 1) }
    })
    expect(code(() => inner!.dispose())).toBe('TENSOR_IN_GRAPH')
    const { y, v } = graph.value
    await graph.dispose()
    expect([y.disposed, v.disposed, x.disposed]).toEqual([true, true, false])
    expect(await asyncCode(y.toBytes())).toBe('DISPOSED')
    expect(code(() => y.dispose())).toBe('no error')
    x.dispose()
  })

  it('a kept tensor of the capture is still the graph’s', async () => {
    const x = numbers(4)
    let kept: Tensor | undefined
    const graph = device.queue.capture(() => {
      kept = keep(scale({ x, factor: 2 }))
      return scope(() => keep(scale({ x: kept!, factor: 2 })))
    })
    const { value } = graph
    await graph.dispose()
    expect([kept!.disposed, value.disposed]).toEqual([true, true])
    x.dispose()
  })

  it('scopes around a capture leave its tensors alone', async () => {
    const x = numbers(4)
    const graph = scope(() => affine(x))
    graph.replay()
    expect([...(await graph.value.toFloat32Array())]).toEqual([1, 3, 5, 7])
    await graph.dispose()
    x.dispose()
  })

  it('a disposed graph refuses, and disposes again in silence', async () => {
    const x = numbers(4)
    const graph = affine(x)
    await graph.dispose()
    await graph.dispose()
    expect(graph.disposed).toBe(true)
    expect(code(() => graph.replay())).toBe('DISPOSED')
    expect(code(() => graph.value)).toBe('DISPOSED')
    x.dispose()
  })
})

describe('inside a capture', () => {
  it('host reads, writes and waits are refused', async () => {
    const x = numbers(4)
    const ints = Tensor.from([1], { dtype: 'i32', device })
    const half = Tensor.from([1], { dtype: 'bf16', device })
    const event = device.queue.record()
    const pending: Promise<string>[] = []
    const sync: string[] = []
    const source = { name: 'x', path: '/dev/null', offset: 0, byteLength: 16, dtype: 'f32', shape: [4] } as const
    const graph = device.queue.capture(() => {
      for (const read of [x.toFloat32Array(), half.toFloat32Array(), ints.toInt32Array(), x.toBytes(), device.queue.synchronize(), device.synchronize(), upload(source, x)]) {
        pending.push(asyncCode(read))
      }
      const calls = [
        () => x.write([1, 2, 3, 4]),
        () => Tensor.from([1], { dtype: 'f32', device }),
        () => Tensor.fromBytes(new Uint8Array(4), { dtype: 'f32', device }),
        () => device.queue.record(),
        () => device.queue.wait(event),
      ]
      for (const call of calls) sync.push(code(call))
      return 0
    })
    expect(await Promise.all(pending)).toEqual(pending.map(() => 'CAPTURE_READ'))
    expect(sync).toEqual(sync.map(() => 'CAPTURE_READ'))
    await graph.dispose()
    for (const t of [x, ints, half]) t.dispose()
  })

  it('other queues, nested captures, replays and promises are refused', async () => {
    const other = device.createQueue()
    const x = numbers(4)
    const earlier = affine(x)
    const seen: string[] = []
    const graph = device.queue.capture(() => {
      seen.push(code(() => copy({ x, queue: other })))
      seen.push(code(() => other.capture(() => 0)))
      seen.push(code(() => device.queue.capture(() => 0)))
      seen.push(code(() => earlier.replay()))
      return 0
    })
    expect(seen).toEqual(seen.map(() => 'INVALID_ARGUMENT'))
    expect(code(() => device.queue.capture(async () => 0))).toBe('INVALID_ARGUMENT')
    await graph.dispose()
    await earlier.dispose()
    await other.dispose()
    x.dispose()
  })

  it('ops go to the captured queue by default', async () => {
    const other = device.createQueue()
    const x = numbers(4)
    await device.synchronize()
    const start = device.queue.enqueued
    const graph = other.capture(() => scale({ x, factor: 5 }))
    graph.replay()
    expect([...(await graph.value.toFloat32Array(other))]).toEqual([0, 5, 10, 15])
    expect(device.queue.enqueued).toBe(start)
    await graph.dispose()
    x.dispose()
    await other.dispose()
  })
})
