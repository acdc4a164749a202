import { kvAppend, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'

import { InferenceParams } from './inference-params.js'
import type { InferenceParamsOptions } from './options.js'
import type { SequenceId } from './pages.js'
import type { EvictionRequest } from './step-plan.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const RUNS = process.env['OCTET_SLOW'] === '1' ? 2000 : 60

const make = (options: Partial<InferenceParamsOptions> = {}) =>
  new InferenceParams({ device, numLayers: 1, maxBatchSize: 4, maxSequenceLength: 16, numHeadsKv: 1, headDimK: 2, dtype: 'f32', pageSize: 4, qkvFormat: 'thd', ...options })

const refusal = (fn: () => unknown): { code?: string; argument?: string; message?: string } => {
  try {
    fn()
  } catch (error) {
    return error as { code: string }
  }
  return {}
}

/** Everything that a refused call must leave alone, what lies on the device included. */
async function stateOf(params: InferenceParams): Promise<unknown> {
  const { cuSeqlensQ, kvLens, preStepSeqlens, lastTokens, pageTable, rowOf, positions } = params
  const { k, v } = params.layerCache(1)
  const device = await Promise.all([cuSeqlensQ, kvLens, preStepSeqlens, lastTokens, pageTable, rowOf, positions].map((t) => t.toInt32Array()))
  return {
    order: [...params.order],
    lengths: params.order.map((id) => params.sequenceLength(id)),
    pages: params.order.map((id) => [...params.sequencePages(id)]),
    free: params.freePages,
    sizes: [params.batchSize, params.totalTokens, params.maxSeqlenQ, params.maxSeqlenKv],
    device: device.map((values) => [...values]),
    // Bits: what was never written may be NaN.
    cache: [[...(await k.toBytes())], [...(await v.toBytes())]],
  }
}

/** Fills a step with values that count up, so that anything overwritten shows. */
function append(params: InferenceParams, from: number): void {
  const n = params.totalTokens
  const kv = Tensor.from(Float32Array.from({ length: 2 * n }, (_, i) => from + i), { shape: [n, 1, 2], dtype: 'f32', device })
  params.step(1, kv, kv)
  kv.dispose()
}

describe('a step that does not fit', () => {
  it('changes nothing, on the host or the device, whatever came before', async () => {
    let refused = 0
    const counts = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd', 'e'), fc.oneof({ weight: 4, arbitrary: fc.nat(6) }, { weight: 1, arbitrary: fc.integer({ min: 7, max: 20 }) }))
    await fc.assert(
      fc.asyncProperty(fc.array(counts, { minLength: 2, maxLength: 8 }), fc.boolean(), async (steps, windowed) => {
        const params = make({ isPaged: true, totalNumPages: 7, maxCtxLen: 12 })
        let token = 1
        for (const step of steps) {
          const newTokens = new Map(Object.entries(step))
          const before = await stateOf(params)
          const begin = windowed && [...newTokens.values()].every((n) => n > 0) && newTokens.size > 0
          const result = refusal(() => (begin ? params.beginDecode(newTokens, Math.max(1, newTokens.size)) : params.preStep(newTokens)))
          if (result.code === undefined) {
            if (begin) params.endDecode(new Map())
            else append(params, (token += 100))
            continue
          }
          refused += 1
          expect(['KV_CACHE_FULL', 'CONTEXT_TOO_LONG', 'INVALID_ARGUMENT']).toContain(result.code)
          expect(await stateOf(params)).toEqual(before)
        }
        params.dispose()
      }),
      { numRuns: RUNS },
    )
    expect(refused).toBeGreaterThan(RUNS / 4)
  })

  it('names a page size of 0, and more sequences than slots', () => {
    expect(refusal(() => make({ pageSize: 0 }))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'pageSize', message: expect.stringContaining('expected a whole number of at least 1, received 0') as string })
    const params = make({ maxBatchSize: 2 })
    expect(refusal(() => params.preStep(new Map([['a', 1], ['b', 1], ['c', 1]])))).toMatchObject({ code: 'KV_CACHE_FULL', argument: 'sequences', message: expect.stringMatching(/at most 2.*3.*maxBatchSize/) as string })
    params.dispose()
  })
})

describe('memory', () => {
  it('N pages hold as many tokens as N pages allow, whatever the prompts’ lengths, and not one page more', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 12 }), fc.integer({ min: 1, max: 9 }), (lengths, pageSize) => {
        const pages = lengths.reduce((sum, n) => sum + Math.ceil(n / pageSize), 0)
        const options = { maxBatchSize: 13, maxSequenceLength: 60, pageSize, isPaged: true }
        const [params, full] = [make({ ...options, totalNumPages: pages }), make(options)]
        // Keys and values of one head of dimension 2: memory follows the pages, not the batch.
        expect(full.memoryBytes - params.memoryBytes).toBe((full.totalNumPages - pages) * pageSize * 2 * 4 * 2)
        params.preStep(new Map(lengths.map((n, i) => [i, n])))
        expect(params.freePages).toBe(0)
        const room = lengths.map((n) => Math.ceil(n / pageSize) * pageSize)
        // Up to the last place of every page, then nothing more.
        for (const [i, n] of lengths.entries()) params.preStep(new Map(lengths.map((_, j) => [j, j === i ? Math.min(60, room[i]!) - n : 0])))
        expect(lengths.map((_, i) => params.sequenceLength(i))).toEqual(room.map((n) => Math.min(60, n)))
        expect(refusal(() => params.preStep(new Map([...lengths.map((_, i): [number, number] => [i, 0]), [99, 1]])))).toMatchObject({ code: 'KV_CACHE_FULL', argument: 'newTokens' })
        for (const p of [params, full]) p.dispose()
      }),
      { numRuns: RUNS },
    )
  })
})

describe('the eviction hook', () => {
  const limited = (evict: (request: EvictionRequest) => Iterable<SequenceId>) => make({ isPaged: true, totalNumPages: 4, evict })

  it('is asked when pages run out, for idle sequences only, as often as it helps', async () => {
    const asked: EvictionRequest[] = []
    const params = limited((request) => {
      asked.push(request)
      return [request.candidates[0]!]
    })
    params.preStep(new Map([['a', 4], ['b', 3], ['c', 4], ['d', 4]]))
    append(params, 0)
    expect(asked).toEqual([])
    params.preStep(new Map([['a', 0], ['b', 1], ['c', 0], ['d', 5]]))
    expect(asked).toEqual([{ missingPages: 2, candidates: ['a', 'c'] }, { missingPages: 1, candidates: ['c'] }])
    expect([params.order, params.freePages, params.sequenceLength('a'), params.sequenceLength('d')]).toEqual([['b', 'd'], 0, 0, 9])
    expect([...(await params.active.kvLens.toInt32Array())]).toEqual([4, 9])
    params.dispose()
  })

  it('changes nothing when it cannot help, names too few, or names somebody else', async () => {
    const answers: Record<string, readonly SequenceId[]> = { none: [], few: ['a'], other: ['b'], stranger: ['z'] }
    for (const [name, answer] of Object.entries(answers)) {
      let calls = 0
      const params = limited(() => (calls++ === 0 ? answer : []))
      params.preStep(new Map([['a', 4], ['b', 4], ['c', 8]]))
      append(params, 0)
      const before = await stateOf(params)
      const result = refusal(() => params.preStep(new Map([['a', 0], ['b', 5], ['c', 8]])))
      expect([name, result.code, result.argument]).toEqual([name, ...(answer.length === 0 || name === 'few' ? ['KV_CACHE_FULL', 'newTokens'] : ['INVALID_ARGUMENT', 'evict'])])
      expect(await stateOf(params)).toEqual(before)
      params.dispose()
    }
  })

  it('frees nothing that others share, and sees that', () => {
    const params = limited(({ candidates }) => candidates.slice(0, 1))
    params.preStep(new Map([['a', 8], ['b', 3]]))
    params.fork('a', 'copy')
    // The copy's pages are a's: forgetting it frees none.
    expect(refusal(() => params.preStep(new Map([['copy', 0], ['a', 0], ['b', 12]])))).toMatchObject({})
    expect([params.order, params.sequenceLength('b')]).toEqual([['b'], 15])
    params.dispose()
  })

  it('passes on what it throws, must not use the cache, and is not asked without need', () => {
    const evict = vi.fn<(request: EvictionRequest) => Iterable<SequenceId>>(() => {
      throw new Error('hook')
    })
    const params = limited(evict)
    params.preStep(new Map([['a', 16]]))
    expect(evict).not.toHaveBeenCalled()
    // Nobody is idle: there is nothing to ask.
    expect(refusal(() => params.preStep(new Map([['b', 16], ['c', 1]])))).toMatchObject({ code: 'KV_CACHE_FULL' })
    expect(evict).not.toHaveBeenCalled()
    expect(refusal(() => params.preStep(new Map([['a', 0], ['b', 1]])))).toMatchObject({ message: 'hook' })
    evict.mockImplementation(() => {
      params.reset()
      return []
    })
    expect(refusal(() => params.preStep(new Map([['a', 0], ['b', 1]])))).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('eviction hook') as string })
    expect(params.sequenceLength('a')).toBe(16)
    // A step that just fits asks nobody, though somebody is idle.
    evict.mockClear()
    params.preStep(new Map([['b', 12], ['c', 1]]))
    params.preStep(new Map([['b', 0], ['c', 3]]))
    expect([evict.mock.calls.length, params.freePages, params.order]).toEqual([0, 0, ['b', 'c']])
    params.dispose()
  })
})

it.each(['bshd', 'sbhd', 'thd'] as const)('a decode window takes %s keys where its own rows stand', async (qkvFormat) => {
  const params = make({ qkvFormat, maxBatchSize: 2 })
  params.preStep(new Map([['a', 3], ['b', 1]]))
  params.beginDecode(new Map([['a', 1], ['b', 1]]), 2)
  const shape = { bshd: [2, 1, 1, 2], sbhd: [1, 2, 1, 2], thd: [2, 1, 2] }[qkvFormat]
  const kv = Tensor.from(Float32Array.of(1, 2, 3, 4), { shape, dtype: 'f32', device })
  params.step(1, kv, kv)
  const keys = await params.layerCache(1).k.toFloat32Array()
  const at = (id: string, position: number) => [...keys.subarray((params.sequencePages(id)[0]! * 4 + position) * 2).subarray(0, 2)]
  expect([at('a', 3), at('b', 1)]).toEqual([[1, 2], [3, 4]])
  params.endDecode(new Map([['a', 1], ['b', 1]]))
  for (const t of [kv, params]) t.dispose()
})

it('a decode window, whose pages lie on the device already, refuses what would move them, and ends as if nobody had asked', async () => {
  const params = make()
  params.preStep(new Map([['a', 3], ['b', 1]]))
  append(params, 1)
  params.beginDecode(new Map([['a', 2], ['b', 2]]), 3)
  const before = await stateOf(params)
  for (const move of [() => params.reorder([1, 0, 2]), () => params.reorder([2, 1, 0]), () => params.fork('a', 'c'), () => params.truncate('a', 1)]) {
    expect(refusal(move)).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('endDecode()') as string })
    expect(await stateOf(params)).toEqual(before)
  }
  params.endDecode(new Map([['a', 2], ['b', 1]]))
  expect(params.order.map((id) => params.sequenceLength(id))).toEqual([5, 2])
  params.fork('a', 'c')
  params.truncate('c', 1)
  expect(params.order).toEqual(['a', 'b', 'c'])
  params.dispose()
})

it('refuses a cache that cannot fit with the bytes of all of it, and takes nothing', async () => {
  const small = await openDevice('cpu', { memoryLimit: 8 << 20 })
  // Keys alone would fit: 2 layers of 3 pages of 64 tokens, 16 heads of 256 in f32.
  const shape = { device: small, numLayers: 2, maxBatchSize: 1, maxSequenceLength: 192, numHeadsKv: 16, headDimK: 256, pageSize: 64 }
  const bytes = 2 * 2 * 3 * 64 * 16 * 256 * 4
  expect(() => make(shape)).toThrow(expect.objectContaining({ code: 'OUT_OF_MEMORY', received: `${bytes} bytes for a cache of 192 tokens in 2 layers` }))
  expect(small.memoryStats()).toMatchObject({ allocatedBytes: 0, reservedBytes: 0 })
  make({ ...shape, dtype: 'e4m3' }).dispose()
  await small.dispose()
})

it('a refused append keeps nothing, and a cache that a graph uses can be disposed after it', async () => {
  const before = device.memoryStats().allocations
  const params = make({ qkvFormat: 'bshd' })
  params.preStep(new Map([[0, 2], [1, 1]]))
  const held = device.memoryStats().allocations
  const [wide, narrow] = [Tensor.zeros([2, 2, 1, 2], { dtype: 'f32', device }), Tensor.zeros([2, 2, 1, 2], { dtype: 'i32', device })]
  expect(refusal(() => params.step(1, wide, narrow))).toMatchObject({ code: 'DTYPE_MISMATCH' })
  expect(device.memoryStats().allocations).toBe(held + 2)
  const graph = device.queue.capture(() => kvAppend({ k: wide.view([4, 2]), v: wide.view([4, 2]), kCache: params.layerCache(1).k, vCache: params.layerCache(1).v, pageTable: params.pageTable, rowOf: Tensor.zeros([4], { dtype: 'i32', device }), positions: Tensor.zeros([4], { dtype: 'i32', device }), kvHeads: 1, headDim: 2 }))
  for (let i = 0; i < 2; i++) expect(refusal(() => params.dispose())).toMatchObject({ code: 'TENSOR_IN_GRAPH' })
  expect(refusal(() => params.preStep(new Map()))).toMatchObject({ code: 'DISPOSED' })
  await graph.dispose()
  for (const t of [params, params, wide, narrow]) t.dispose()
  expect(device.memoryStats().allocations).toBe(before)
})
