import { OctetError } from '@octet-llm/core'
import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { describeBackends, measureReadBandwidth } from './backends.js'
import { defaultThreads, listLevels, openDevice } from './device.js'
import { CPU_LEVELS, MANIFEST } from './manifest.js'
import { cudaCandidates, loadCuda, loadNative } from './native.js'
import { add } from './ops/add.js'
import { OP_NAMES } from './op-table.js'
import { Tensor } from './tensor.js'

async function code(promise: Promise<unknown> | (() => unknown)): Promise<string> {
  try {
    await (typeof promise === 'function' ? promise() : promise)
  } catch (error) {
    if (OctetError.is(error)) return error.code
    throw error
  }
  return 'no error'
}

describe('openDevice', () => {
  it('takes the highest level that the CPU runs, and any other by name', async () => {
    const levels = listLevels()
    const runnable = levels.filter((level) => level.supported)
    const auto = await openDevice()
    expect(auto.isa).toBe(runnable.at(-1)!.name)
    expect(auto).toMatchObject({ kind: 'cpu', name: 'cpu', threads: defaultThreads(), capability: { kind: 'cpu', computeCapability: null } })
    await auto.dispose()
    for (const { name } of runnable) {
      const device = await openDevice('cpu', { isa: name, threads: 3 })
      using x = Tensor.from([1, 2, 3], { dtype: 'f32', device })
      using y = add({ a: x, b: x })
      expect([...(await y.toFloat32Array())]).toEqual([2, 4, 6])
      expect([device.isa, device.threads, new Set(Object.values(device.kernels()))]).toEqual([name, 3, new Set([name])])
      await device.dispose()
    }
    for (const { name } of levels.filter((level) => !level.supported)) expect(await code(openDevice('cpu', { isa: name }))).toBe('NOT_SUPPORTED')
  })

  it('refuses what it cannot open', async () => {
    expect(await code(openDevice('cuda'))).toBe('DEVICE_NOT_FOUND')
    expect(await code(openDevice('cuda:1'))).toBe('DEVICE_NOT_FOUND')
    for (const name of ['gpu', 'cuda:', 'cuda:x', '']) expect(await code(openDevice(name as 'cpu'))).toBe('INVALID_ARGUMENT')
    for (const options of [{ threads: 0 }, { threads: 1.5 }, { threads: 1025 }, { spinMicros: -1 }, { memoryLimit: 0 }, { isa: 'sse9' as 'avx2' }]) {
      expect([options, await code(openDevice('cpu', options))]).toEqual([options, 'INVALID_ARGUMENT'])
    }
  })

  it('keeps to its memory limit', async () => {
    const device = await openDevice('cpu', { threads: 1, memoryLimit: 8 << 20 })
    const x = Tensor.empty([6 << 20], { dtype: 'u8', device })
    expect(await code(() => Tensor.empty([3 << 20], { dtype: 'u8', device }))).toBe('OUT_OF_MEMORY')
    x.dispose()
    await device.synchronize()
    Tensor.empty([3 << 20], { dtype: 'u8', device }).dispose()
    await device.dispose()
  })

  it('keeps devices apart', async () => {
    const [a, b] = [await openDevice('cpu', { threads: 1 }), await openDevice('cpu', { threads: 2 })]
    const x = Tensor.zeros([1000], { dtype: 'f32', device: a })
    expect([a.memoryStats().allocations, b.memoryStats().allocations]).toEqual([1, 0])
    await b.dispose()
    expect((await x.toFloat32Array()).length).toBe(1000)
    await a.dispose()
  })
})

describe('a device', () => {
  it('accounts for its memory', async () => {
    const device = await openDevice('cpu', { threads: 1 })
    const small = Tensor.empty([10], { dtype: 'f32', device })
    const large = Tensor.empty([1 << 20], { dtype: 'f32', device })
    expect(device.memoryStats()).toEqual({ allocatedBytes: 64 + (4 << 20), reservedBytes: (2 << 20) + (4 << 20), peakAllocatedBytes: 64 + (4 << 20), allocations: 2 })
    small.dispose()
    large.dispose()
    await device.synchronize()
    expect(device.memoryStats()).toMatchObject({ allocatedBytes: 0, reservedBytes: 6 << 20, allocations: 0 })
    expect(device.emptyCache()).toBe(6 << 20)
    expect(device.memoryStats()).toMatchObject({ reservedBytes: 0, peakAllocatedBytes: 64 + (4 << 20) })
    await device.dispose()
  })

  it('gives memory back to the system', async () => {
    const device = await openDevice('cpu', { threads: 1 })
    const before = process.memoryUsage().rss
    const big = Tensor.zeros([100 << 20], { dtype: 'u8', device })
    await device.synchronize()
    expect(process.memoryUsage().rss - before).toBeGreaterThan(90 << 20)
    big.dispose()
    device.emptyCache()
    expect(process.memoryUsage().rss - before).toBeLessThan(30 << 20)
    await device.dispose()
  })

  it('does not grow over thousands of steps', async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const x = Tensor.zeros([5000], { dtype: 'f32', device })
    const step = (): void => {
      const y = add({ a: x, b: x })
      add({ a: y, b: x, out: x })
      y.dispose()
    }
    for (let i = 0; i < 100; i++) step()
    await device.synchronize()
    const { reservedBytes } = device.memoryStats()
    const { rss } = process.memoryUsage()
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 500; i++) step()
      await device.synchronize()
    }
    expect(device.memoryStats()).toMatchObject({ reservedBytes, allocations: 1 })
    expect(process.memoryUsage().rss - rss).toBeLessThan(64 << 20)
    await device.dispose()
  })

  it('waits for work in flight when disposed, and refuses everything after', async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const x = Tensor.from([1, 2], { dtype: 'f32', device })
    const read = x.toFloat32Array()
    const queue = device.createQueue()
    const first = device.dispose()
    expect(device.dispose()).toBe(first)
    expect(device.disposed).toBe(true)
    const calls: Record<string, () => unknown> = {
      createQueue: () => device.createQueue(),
      synchronize: () => device.synchronize(),
      emptyCache: () => device.emptyCache(),
      empty: () => Tensor.empty([1], { dtype: 'f32', device }),
      from: () => Tensor.from([1], { dtype: 'f32', device }),
      op: () => add({ a: x, b: x }),
      queue: () => queue.synchronize(),
      ownQueue: () => device.queue.synchronize(),
    }
    for (const [name, call] of Object.entries(calls)) expect([name, await code(async () => call())]).toEqual([name, 'DISPOSED'])
    await first
    expect([...(await read)]).toEqual([1, 2])
    for (const [name, call] of Object.entries(calls)) expect([name, await code(async () => call())]).toEqual([name, 'DISPOSED'])
    await device[Symbol.asyncDispose]()
  })
})

describe('a lost device', () => {
  it('refuses work with DEVICE_LOST, and can still be disposed', async () => {
    const device = await openDevice('cpu', { threads: 1 })
    const x = Tensor.from([1, 2], { dtype: 'f32', device })
    await device.synchronize()
    device.lost = true
    const calls = { op: () => add({ a: x, b: x }), read: () => x.toFloat32Array(), synchronize: () => device.synchronize(), queue: () => device.createQueue() }
    for (const [name, call] of Object.entries(calls)) expect([name, await code(async () => call())]).toEqual([name, 'DEVICE_LOST'])
    x.dispose()
    await device.dispose()
  })
})

describe('the manifest', () => {
  it('has a row for every op and backend, and no other', () => {
    for (const backend of ['cpu', 'cuda'] as const) {
      expect(Object.keys(MANIFEST[backend])).toEqual([...OP_NAMES])
      for (const row of Object.values(MANIFEST[backend])) expect('gap' in row ? row.gap : Object.keys(row.variants).join()).not.toBe('')
    }
  })

  it('is what the binary has: every op on every level, or a gap with a reason', () => {
    for (const level of loadNative().describe().levels) {
      expect(CPU_LEVELS).toContain(level.name)
      OP_NAMES.forEach((op, i) => {
        const row = MANIFEST.cpu[op]
        expect([level.name, op, level.ops[i]]).toEqual([level.name, op, 'variants' in row])
      })
    }
  })

  it('names the CUDA binary’s own variants, in their order, where that binary is built', () => {
    const built = cudaCandidates().filter((path) => existsSync(path))
    for (const variants of built.map(() => loadCuda().describe().variants!)) {
      OP_NAMES.forEach((op, i) => {
        const row = MANIFEST.cuda[op]
        expect([op, op === 'readFile' ? ['pinned_staging'] : variants[i]]).toEqual([op, 'variants' in row ? Object.keys(row.variants) : []])
      })
    }
    expect(Object.keys((MANIFEST.cuda.attention as { variants: object }).variants)).toEqual(['decode_cluster_sm90', 'decode_sm90', 'prefill_sm90', 'portable'])
  })
})

describe('describeBackends', () => {
  it('says what would be chosen and why', async () => {
    const report = describeBackends()
    if (report.cuda.available) expect(report.cuda.devices.length).toBeGreaterThan(0)
    else expect(report.cuda.reason).not.toBe('')
    if (!report.cpu.available) throw new Error(report.cpu.reason)
    const { chosen, levels, threads } = report.cpu
    const device = await openDevice()
    expect([device.isa, device.threads]).toEqual([chosen, threads])
    await device.dispose()
    expect(levels.map(({ name, supported }) => ({ name, supported }))).toEqual(listLevels())
    expect(levels.find((level) => level.name === chosen)!.reason).toBe('the highest level that this CPU runs')
  })

  it('measures a read rate on every level', async () => {
    for (const { name } of listLevels().filter((level) => level.supported)) {
      expect(await measureReadBandwidth({ bytes: 16 << 20, repeats: 1, isa: name })).toBeGreaterThan(0.1)
    }
    expect(await code(measureReadBandwidth({ bytes: 0 }))).toBe('INVALID_ARGUMENT')
    expect(await code(measureReadBandwidth({ bytes: 2 ** 52 }))).toBe('OUT_OF_MEMORY')
  })
})

describe('room', () => {
  it('is the limit less what tensors hold; what cannot fit is refused before it is allocated', async () => {
    const device = await openDevice('cpu', { memoryLimit: 32 << 20 })
    expect(device.availableBytes).toBe(32 << 20)
    const held = Tensor.empty([8 << 20], { dtype: 'u8', device })
    expect(device.availableBytes).toBe(24 << 20)
    device.checkRoom(24 << 20, { op: 'load', purpose: 'weights' })
    expect(() => device.checkRoom((24 << 20) + 1, { op: 'load', purpose: 'the weights of a model', hint: 'take a smaller one' })).toThrow(
      expect.objectContaining({ code: 'OUT_OF_MEMORY', op: 'load', received: `${(24 << 20) + 1} bytes for the weights of a model`, expected: `at most ${24 << 20} bytes, which cpu has left`, hint: 'take a smaller one' }),
    )
    held.dispose()
    // Cached, and free to be used again.
    expect(device.availableBytes).toBe(32 << 20)
    await device.dispose()
  })
})
