import { attention, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { InferenceParams } from './inference-params.js'
import type { InferenceParamsOptions } from './options.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const HEADS = 2
const DIM = 4

const make = (options: Partial<InferenceParamsOptions> = {}) =>
  new InferenceParams({ device, numLayers: 2, maxBatchSize: 4, maxSequenceLength: 16, numHeadsKv: HEADS, headDimK: DIM, dtype: 'f32', pageSize: 4, qkvFormat: 'thd', ...options })

const refusal = (fn: () => unknown): { code?: string; argument?: string } => {
  try {
    fn()
  } catch (error) {
    return error as { code: string }
  }
  return {}
}

const arrays = async (params: InferenceParams) => {
  const { cuSeqlensQ, kvLens, preStepSeqlens, lastTokens, rowOf, positions } = params.active
  const read = async (t: Tensor) => [...(await t.toInt32Array())]
  return {
    cuSeqlensQ: await read(cuSeqlensQ),
    kvLens: await read(kvLens),
    preStepSeqlens: await read(preStepSeqlens),
    lastTokens: await read(lastTokens),
    rowOf: await read(rowOf),
    positions: await read(positions),
  }
}

describe('InferenceParams.preStep', () => {
  it('fills every array for a chunked, uneven batch', async () => {
    const params = make()
    params.preStep(new Map([['a', 3], ['b', 1]]))
    params.preStep(new Map([['b', 2], ['a', 1], ['c', 4]]))
    expect(params.order).toEqual(['a', 'b', 'c'])
    expect(await arrays(params)).toEqual({
      cuSeqlensQ: [0, 1, 3, 7],
      kvLens: [4, 3, 4],
      preStepSeqlens: [3, 1, 0],
      lastTokens: [0, 2, 6],
      rowOf: [0, 1, 1, 2, 2, 2, 2],
      positions: [3, 1, 2, 0, 1, 2, 3],
    })
    expect([params.batchSize, params.totalTokens, params.maxSeqlenQ, params.maxSeqlenKv]).toEqual([3, 7, 4, 4])
    expect([...(await params.kvLens.toInt32Array())]).toEqual([4, 3, 4, 0])
    expect([...(await params.cuSeqlensQ.toInt32Array())]).toEqual([0, 1, 3, 7, 7])
    params.dispose()
  })

  it('keeps rows in order of arrival when one in the middle leaves, and the pages where they are', async () => {
    const params = make()
    params.preStep(new Map([[7, 5], [8, 2], [9, 1]]))
    const pages = params.sequencePages(9)
    params.preStep(new Map([[9, 1], [7, 1], [5, 1]]))
    expect(params.order).toEqual([7, 9, 5])
    expect(params.sequencePages(9)).toEqual(pages)
    const table = await params.active.pageTable.toInt32Array()
    expect(table[1 * 4]).toBe(pages[0])
    expect(table[2 * 4]).toBe(params.sequencePages(5)[0])
    expect(params.sequenceLength(8)).toBe(0)
  })

  it('keeps an idle sequence with a count of 0', async () => {
    const params = make()
    params.preStep(new Map([['a', 2], ['b', 2]]))
    params.preStep(new Map([['a', 0], ['b', 1]]))
    expect(await arrays(params)).toMatchObject({ cuSeqlensQ: [0, 0, 1], kvLens: [2, 3], rowOf: [1], positions: [2] })
  })

  it('writes in place: the same tensors at the same addresses', () => {
    const params = make({ maxCtxLen: 8 })
    const keys = ['cuSeqlensQ', 'kvLens', 'preStepSeqlens', 'lastTokens', 'pageTable', 'rowOf', 'positions'] as const
    const before = keys.map((key) => params[key])
    params.preStep(new Map([['a', 8], ['b', 8], ['c', 8], ['d', 8]]))
    params.preStep(new Map([['b', 1]]))
    expect(keys.map((key) => params[key])).toEqual(before)
    expect(before.every((t) => !t.disposed)).toBe(true)
  })

  it('counts of te_gemma are not read as one: several tokens a step advance by as many', () => {
    const params = make()
    params.preStep(new Map([['a', 3]]))
    params.preStep(new Map([['a', 4]]))
    expect(params.sequenceLength('a')).toBe(7)
  })

  it('refuses what does not fit before anything changes', async () => {
    const params = make({ maxBatchSize: 2, isPaged: true, totalNumPages: 5 })
    params.preStep(new Map([['a', 8], ['b', 3]]))
    const before = { ...(await arrays(params)), order: params.order, free: params.freePages }
    expect(refusal(() => params.preStep(new Map([['a', 1], ['b', 1], ['c', 1]])))).toMatchObject({ code: 'KV_CACHE_FULL', argument: 'sequences' })
    expect(refusal(() => params.preStep(new Map([['b', 1], ['a', 9]])))).toMatchObject({ code: 'KV_CACHE_FULL', argument: 'sequence a' })
    expect(refusal(() => params.preStep(new Map([['b', 6], ['a', 4]])))).toMatchObject({ code: 'KV_CACHE_FULL', argument: 'newTokens' })
    for (const count of [-1, 0.5, NaN]) expect(refusal(() => params.preStep(new Map([['a', count]])))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect({ ...(await arrays(params)), order: params.order, free: params.freePages }).toEqual(before)
    params.preStep(new Map([['b', 5], ['a', 4]]))
    expect(params.freePages).toBe(0)
  })

  it('refuses a longer chunk than maxCtxLen', () => {
    expect(refusal(() => make({ maxCtxLen: 3 }).preStep(new Map([['a', 4]])))).toMatchObject({ code: 'CONTEXT_TOO_LONG' })
  })

  it('starts anew after reset, in the same memory', async () => {
    const params = make()
    params.preStep(new Map([['a', 16], ['b', 16], ['c', 16], ['d', 16]]))
    const cache = params.layerCache(1).k
    params.reset()
    expect([params.batchSize, params.freePages, params.sequenceLength('a')]).toEqual([0, 16, 0])
    expect(refusal(() => params.active)).toMatchObject({ code: 'INVALID_ARGUMENT' })
    params.preStep(new Map([['b', 2]]))
    expect(params.layerCache(1).k).toBe(cache)
    expect(await arrays(params)).toMatchObject({ kvLens: [2], positions: [0, 1] })
  })
})

describe('InferenceParams arguments', () => {
  it.each([
    ['pageSize', { pageSize: 0 }],
    ['maxBatchSize', { maxBatchSize: 0 }],
    ['maxSequenceLength', { maxSequenceLength: 1.5 }],
    ['numLayers', { numLayers: -1 }],
    ['numHeadsKv', { numHeadsKv: 0 }],
    ['headDimV', { headDimV: 8 }],
    ['dtype', { dtype: 'f16' as 'f32' }],
    ['totalNumPages', { totalNumPages: 3 }],
    ['totalNumPages', { totalNumPages: 0, isPaged: true }],
    ['qkvFormat', { qkvFormat: 'bhsd' as 'bshd' }],
    ['maxCtxLen', { maxCtxLen: 0 }],
  ] as [string, Partial<InferenceParamsOptions>][])('refuses a bad %s', (argument, options) => {
    expect(refusal(() => make(options))).toMatchObject({ code: 'INVALID_ARGUMENT', argument })
  })

  it('refuses bad layers, reorders, forks and truncations', () => {
    const params = make({ maxBatchSize: 2 })
    params.preStep(new Map([['a', 2], ['b', 2]]))
    expect(refusal(() => params.layerCache(0))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'layer' })
    expect(refusal(() => params.layerCache(3))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    for (const source of [[0], [0, 2], [0, -1], [0.5, 1]]) expect(refusal(() => params.reorder(source))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(refusal(() => params.fork('a', 'c'))).toMatchObject({ code: 'KV_CACHE_FULL' })
    expect(refusal(() => params.truncate('a', 3))).toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  it('refuses every call after dispose, which is idempotent', () => {
    const params = make()
    params.dispose()
    params.dispose()
    for (const call of [() => params.preStep(new Map()), () => params.layerCache(1), () => params.reset(), () => params.reorder([]), () => params.fork(1, 2), () => params.truncate(1, 0)]) {
      expect(refusal(call)).toMatchObject({ code: 'DISPOSED' })
    }
  })

  it('frees all of its memory', async () => {
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    const params = make({ dtype: 'e4m3' })
    expect(params.memoryBytes).toBeGreaterThanOrEqual(2 * 2 * 16 * 4 * HEADS * DIM)
    params.preStep(new Map([['a', 9]]))
    params.preStep(new Map([['a', 1], ['b', 3]]))
    params.dispose()
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })
})

/** A key or value that tells sequence content, position and layer apart; exact in bf16 and e4m3 it need not be. */
const element = (token: number, layer: number, isValue: boolean, i: number) => Math.fround(Math.sin(token * 1.7 + layer * 0.9 + (isValue ? 0.5 : 0) + i * 0.31))

const rows = (tokens: readonly number[], layer: number, isValue: boolean) =>
  Float32Array.from({ length: tokens.length * HEADS * DIM }, (_, i) => element(tokens[Math.floor(i / (HEADS * DIM))]!, layer, isValue, i % (HEADS * DIM)))

/** Appends one token list a row to both layers. */
function appendAll(params: InferenceParams, tokens: readonly number[]): void {
  for (const layer of [1, 2]) {
    const parts = [false, true].map((isValue) => Tensor.from(rows(tokens, layer, isValue), { shape: [tokens.length, HEADS, DIM], dtype: 'f32', device }))
    params.step(layer, parts[0]!, parts[1]!)
    for (const t of parts) t.dispose()
  }
}

/** What a layer holds for a row, read through the page table on the device. */
async function held(params: InferenceParams, layer: number, row: number, isValue: boolean): Promise<number[]> {
  const cache = params.layerCache(layer)
  const data = await (isValue ? cache.v : cache.k).toFloat32Array()
  const id = params.order[row]!
  const table = await params.active.pageTable.toInt32Array()
  const pages = table.subarray(row * (table.length / params.batchSize))
  return Array.from({ length: params.sequenceLength(id) }, (_, p) =>
    Array.from({ length: HEADS }, (_, h) => {
      const at = ((pages[Math.floor(p / params.pageSize)]! * HEADS + h) * params.pageSize + (p % params.pageSize)) * DIM
      return [...data.subarray(at, at + DIM)]
    }).flat(),
  ).flat()
}

type Move =
  | { kind: 'grow'; counts: number[]; leave: boolean[]; arrive: number }
  | { kind: 'fork'; from: number }
  | { kind: 'reorder'; sources: number[] }
  | { kind: 'truncate'; row: number; keep: number }

const moves: fc.Arbitrary<Move> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('grow' as const), counts: fc.array(fc.nat(5), { minLength: 4, maxLength: 4 }), leave: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), arrive: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('fork' as const), from: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reorder' as const), sources: fc.array(fc.nat(3), { minLength: 4, maxLength: 4 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('truncate' as const), row: fc.nat(3), keep: fc.nat(16) }) },
)

/** Plays moves on a cache and, beside it, on plain token lists. @returns the lists */
function play(params: InferenceParams, list: readonly Move[]): Map<number, number[]> {
  const lists = new Map<number, number[]>()
  let nextId = 0
  let nextToken = 0
  for (const move of list) {
    const ids = [...params.order] as number[]
    if (move.kind === 'grow') {
      const stay = ids.filter((_, i) => !move.leave[i] || i % 2 === 1)
      const fresh = Array.from({ length: Math.min(move.arrive, params.maxBatchSize - stay.length) }, () => nextId++)
      const counts = new Map([...stay, ...fresh].map((id, i) => [id, move.counts[i]!]))
      if (refusal(() => params.preStep(counts)).code === 'KV_CACHE_FULL') continue
      for (const id of ids) if (!counts.has(id)) lists.delete(id)
      const packed = (params.order as number[]).flatMap((id) => {
        const tokens = Array.from({ length: counts.get(id)! }, () => nextToken++)
        lists.set(id, [...(lists.get(id) ?? []), ...tokens])
        return tokens
      })
      appendAll(params, packed)
    } else if (move.kind === 'fork' && ids.length > 0 && ids.length < params.maxBatchSize) {
      const from = ids[move.from % ids.length]!
      params.fork(from, nextId)
      lists.set(nextId++, [...lists.get(from)!])
    } else if (move.kind === 'reorder' && ids.length > 0) {
      const sources = ids.map((_, i) => move.sources[i]! % ids.length)
      params.reorder(sources)
      const old = new Map(lists)
      for (const [row, id] of ids.entries()) lists.set(id, [...old.get(ids[sources[row]!]!)!])
    } else if (move.kind === 'truncate' && ids.length > 0) {
      const id = ids[move.row % ids.length]!
      const kept = lists.get(id)!.slice(0, move.keep)
      params.truncate(id, kept.length)
      lists.set(id, kept)
    }
  }
  return lists
}

describe('InferenceParams on the device', () => {
  it.each([
    ['non-paged', {}],
    ['paged with fewer pages than the worst case', { isPaged: true, totalNumPages: 9 }],
    ['page size 1', { pageSize: 1 }],
    ['one page a sequence', { pageSize: 16 }],
  ] as [string, Partial<InferenceParamsOptions>][])('%s: holds exactly the tokens of each sequence after random moves', async (_, options) => {
    await fc.assert(
      fc.asyncProperty(fc.array(moves, { minLength: 1, maxLength: 14 }), async (list) => {
        const params = make(options)
        const lists = play(params, list)
        params.preStep(new Map(params.order.map((id) => [id, 0])))
        for (const [row, id] of params.order.entries()) {
          const want = lists.get(id as number)!
          expect(params.sequenceLength(id)).toBe(want.length)
          for (const layer of [1, 2]) {
            expect(await held(params, layer, row, false)).toEqual([...rows(want, layer, false)])
            expect(await held(params, layer, row, true)).toEqual([...rows(want, layer, true)])
          }
        }
        params.dispose()
      }),
      { numRuns: 40 },
    )
  })

  it('gives the kernel the tables that host and device agree on: paged and non-paged attention are bit-equal', async () => {
    const play2 = async (options: Partial<InferenceParamsOptions>) => {
      const params = make(options)
      params.preStep(new Map([['x', 6], ['y', 3]]))
      appendAll(params, [0, 1, 2, 3, 4, 5, 10, 11, 12])
      params.preStep(new Map([['x', 1], ['y', 1], ['z', 2]]))
      appendAll(params, [6, 13, 20, 21])
      params.reorder([1, 1, 2])
      params.preStep(new Map([['x', 1], ['y', 1], ['z', 1]]))
      appendAll(params, [30, 31, 32])
      const q = Tensor.from(rows([1, 2, 3], 0, false), { shape: [3, HEADS * DIM], dtype: 'f32', device })
      const { k, v } = params.layerCache(2)
      const { pageTable, cuSeqlensQ, kvLens } = params.active
      const out = attention({ q, kCache: k, vCache: v, pageTable, cuSeqlensQ, kvLens, heads: HEADS, kvHeads: HEADS, headDim: DIM, maxSeqlenQ: params.maxSeqlenQ, maxSeqlenKv: params.maxSeqlenKv })
      return [...(await out.toFloat32Array())]
    }
    const plain = await play2({})
    expect(plain.every(Number.isFinite)).toBe(true)
    expect(await play2({ isPaged: true, totalNumPages: 7 })).toEqual(plain)
    expect(await play2({ pageSize: 1 })).toEqual(plain)
    expect(await play2({ pageSize: 64, maxSequenceLength: 100 })).toEqual(plain)
  })

  it.each([
    ['bshd', [2, 3, HEADS, DIM], [0, 1, 2, 10, -1, -1]],
    ['sbhd', [3, 2, HEADS, DIM], [0, 10, 1, -1, 2, -1]],
  ] as const)('step takes padded %s and leaves its pads out', async (qkvFormat, shape, tokens) => {
    const params = make({ qkvFormat })
    params.preStep(new Map([['a', 3], ['b', 1]]))
    const [k, v] = [false, true].map((isValue) => Tensor.from(rows([...tokens], 2, isValue), { shape, dtype: 'f32', device })) as [Tensor, Tensor]
    params.step(2, k, v)
    expect(await held(params, 2, 0, true)).toEqual([...rows([0, 1, 2], 2, true)])
    expect(await held(params, 2, 1, false)).toEqual([...rows([10], 2, false)])
    expect(refusal(() => params.step(2, k.view([6, HEADS, DIM]), v))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'k' })
    expect(refusal(() => params.step(2, k, v.view([6, HEADS, DIM])))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'v' })
  })

  it('stores e4m3 with a scale of 1 and gives it back to the nearest code', async () => {
    const params = make({ dtype: 'e4m3' })
    params.preStep(new Map([['a', 5]]))
    appendAll(params, [0, 1, 2, 3, 4])
    const got = await held(params, 1, 0, false)
    const want = rows([0, 1, 2, 3, 4], 1, false)
    // Half a step of a 3-bit mantissa, or half of the smallest subnormal.
    for (const [i, x] of got.entries()) expect(Math.abs(x - want[i]!)).toBeLessThanOrEqual(Math.max(Math.abs(want[i]!) / 16, 2 ** -10))
    expect(await params.layerCache(1).kScaleInv!.toFloat32Array()).toEqual(new Float32Array(HEADS).fill(1))
  })
})
