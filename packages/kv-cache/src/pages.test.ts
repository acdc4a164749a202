import { OctetError } from '@octet-llm/core'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'

import { PagePool, PageTable, type PageCopy, type SequenceId } from './pages.js'

const code = (fn: () => unknown): string | undefined => {
  try {
    fn()
  } catch (error) {
    return OctetError.is(error) ? error.code : 'not an OctetError'
  }
  return undefined
}

const append = (table: PageTable, counts: Record<string, number>, remove: SequenceId[] = []) =>
  table.apply({ remove, append: new Map(Object.entries(counts)) })

describe('PagePool', () => {
  it('hands out low pages first and the preferred one when it is free', () => {
    const pool = new PagePool(4)
    expect([pool.take(), pool.take(3), pool.take(3), pool.take()]).toEqual([0, 3, 1, 2])
    expect(pool.free).toBe(0)
    expect(code(() => pool.take())).toBe('KV_CACHE_FULL')
  })

  it('frees a page with its last reference and never stacks it twice', () => {
    const pool = new PagePool(2)
    for (let round = 0; round < 5; round++) {
      const page = pool.take(0)
      pool.retain(page)
      pool.release(page)
      expect(pool.free).toBe(1)
      pool.release(page)
      expect(pool.free).toBe(2)
    }
    expect(new Set([pool.take(), pool.take()])).toEqual(new Set([0, 1]))
    expect(code(() => pool.take())).toBe('KV_CACHE_FULL')
  })

  it('refuses to retain or release a page that nobody holds', () => {
    const pool = new PagePool(1)
    expect(code(() => pool.retain(0))).toBe('INVALID_ARGUMENT')
    expect(code(() => pool.release(0))).toBe('INVALID_ARGUMENT')
    expect(code(() => pool.release(7))).toBe('INVALID_ARGUMENT')
  })
})

describe('PageTable', () => {
  it('is affine for a non-paged cache, whatever order sequences come and go in', () => {
    const table = new PageTable({ totalPages: 6, pageSize: 4, maxPagesPerSequence: 2, affine: true })
    append(table, { a: 5, b: 1, c: 8 })
    expect([table.pages('a'), table.pages('b'), table.pages('c')]).toEqual([[0, 1], [2], [4, 5]])
    append(table, { a: 0, c: 0, d: 6 }, ['b'])
    expect(table.pages('d')).toEqual([2, 3])
  })

  it.each([
    ['pageSize', { totalPages: 1, pageSize: 0, maxPagesPerSequence: 1 }],
    ['totalPages', { totalPages: 0, pageSize: 1, maxPagesPerSequence: 1 }],
    ['maxPagesPerSequence', { totalPages: 1, pageSize: 1, maxPagesPerSequence: 0.5 }],
  ])('refuses a bad %s', (argument, options) => {
    expect(() => new PageTable(options)).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument }))
  })

  it('changes nothing when pages run out', () => {
    const table = new PageTable({ totalPages: 3, pageSize: 2, maxPagesPerSequence: 3 })
    append(table, { a: 4 })
    expect(code(() => append(table, { a: 1, b: 1, c: 1 }))).toBe('KV_CACHE_FULL')
    expect([table.length('a'), table.has('b'), table.freePages]).toEqual([4, false, 1])
  })

  it('changes nothing when one sequence outgrows its limit', () => {
    const table = new PageTable({ totalPages: 8, pageSize: 2, maxPagesPerSequence: 2 })
    append(table, { a: 4 })
    expect(code(() => append(table, { b: 1, a: 1 }))).toBe('KV_CACHE_FULL')
    expect([table.length('a'), table.has('b')]).toEqual([4, false])
  })

  it('lets arrivals use the pages of those that leave in the same step', () => {
    const table = new PageTable({ totalPages: 2, pageSize: 1, maxPagesPerSequence: 2 })
    append(table, { a: 2 })
    expect(table.cost({ remove: ['a'], append: new Map([['b', 2]]) })).toBe(0)
    append(table, { b: 2 }, ['a'])
    expect(table.pages('b')).toHaveLength(2)
  })

  it('copies a shared, partly filled page once for each sharer but the last to grow', () => {
    const table = new PageTable({ totalPages: 8, pageSize: 4, maxPagesPerSequence: 4 })
    append(table, { a: 6 })
    table.fork('a', 'b')
    table.fork('a', 'c')
    const shared = table.pages('a')[1]!
    expect(table.references(shared)).toBe(3)
    expect(table.cost({ remove: [], append: new Map([['a', 1], ['b', 1], ['c', 1]]) })).toBe(2)
    const copies = append(table, { a: 1, b: 1, c: 1 })
    expect(copies.map((copy) => copy.from)).toEqual([shared, shared])
    expect(new Set(['a', 'b', 'c'].map((id) => table.pages(id)[1])).size).toBe(3)
    expect(table.references(table.pages('a')[0]!)).toBe(3)
  })

  it('copies nothing when the shared last page is full', () => {
    const table = new PageTable({ totalPages: 8, pageSize: 4, maxPagesPerSequence: 4 })
    append(table, { a: 4 })
    table.fork('a', 'b')
    expect(append(table, { a: 1, b: 1 })).toEqual([])
    expect(table.pages('a')[0]).toBe(table.pages('b')[0])
    expect(table.pages('a')[1]).not.toBe(table.pages('b')[1])
  })

  it('refuses forks and truncations that make no sense', () => {
    const table = new PageTable({ totalPages: 4, pageSize: 2, maxPagesPerSequence: 2 })
    append(table, { a: 3, b: 1 })
    expect(code(() => table.fork('nobody', 'c'))).toBe('INVALID_ARGUMENT')
    expect(code(() => table.fork('a', 'b'))).toBe('INVALID_ARGUMENT')
    expect(code(() => table.truncate('a', 4))).toBe('INVALID_ARGUMENT')
    table.truncate('a', 2)
    expect([table.length('a'), table.pages('a').length, table.freePages]).toEqual([2, 1, 2])
  })
})

/** What a cache holds, token by token, by plain copying: the specification of sharing. */
class Mirror {
  readonly tokens = new Map<SequenceId, number[]>()
  readonly pages: number[][]
  next = 0

  constructor(readonly table: PageTable) {
    this.pages = Array.from({ length: table.totalPages }, () => new Array<number>(table.pageSize).fill(-1))
  }

  grow(remove: SequenceId[], counts: Map<SequenceId, number>): PageCopy[] {
    const before = new Map([...counts.keys()].map((id) => [id, this.table.length(id)]))
    const copies = this.table.apply({ remove, append: counts })
    for (const id of remove) this.tokens.delete(id)
    const contents = copies.map((copy) => [...this.pages[copy.from]!])
    for (const [i, copy] of copies.entries()) this.pages[copy.to] = contents[i]!
    for (const [id, count] of counts) {
      const list = [...(this.tokens.get(id) ?? [])]
      for (let j = 0; j < count; j++) {
        const position = before.get(id)! + j
        this.pages[this.table.pages(id)[Math.floor(position / this.table.pageSize)]!]![position % this.table.pageSize] = this.next
        list.push(this.next++)
      }
      this.tokens.set(id, list)
    }
    return copies
  }

  check(): void {
    const references = new Array<number>(this.table.totalPages).fill(0)
    for (const [id, tokens] of this.tokens) {
      const pages = this.table.pages(id)
      expect(pages).toHaveLength(Math.ceil(tokens.length / this.table.pageSize))
      for (const page of pages) references[page]! += 1
      expect(tokens.map((_, i) => this.pages[pages[Math.floor(i / this.table.pageSize)]!]![i % this.table.pageSize])).toEqual(tokens)
    }
    expect(references).toEqual(references.map((_, page) => this.table.references(page)))
    expect(this.table.freePages).toBe(references.filter((n) => n === 0).length)
  }
}

type Move =
  | { kind: 'grow'; counts: number[]; leave: boolean[]; arrive: number }
  | { kind: 'fork'; from: number }
  | { kind: 'reorder'; sources: number[] }
  | { kind: 'truncate'; row: number; keep: number }

const moves: fc.Arbitrary<Move> = fc.oneof(
  fc.record({
    kind: fc.constant('grow' as const),
    counts: fc.array(fc.nat(7), { minLength: 6, maxLength: 6 }),
    leave: fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }),
    arrive: fc.nat(3),
  }),
  fc.record({ kind: fc.constant('fork' as const), from: fc.nat(5) }),
  fc.record({ kind: fc.constant('reorder' as const), sources: fc.array(fc.nat(5), { minLength: 6, maxLength: 6 }) }),
  fc.record({ kind: fc.constant('truncate' as const), row: fc.nat(5), keep: fc.nat(20) }),
)

describe('PageTable against plain copying', () => {
  it.each([
    ['paged, short of pages', false],
    ['non-paged', true],
  ])('%s: random arrivals, removals, growth, forks, reorders and truncations', (_, affine) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.array(moves, { maxLength: 25 }), (pageSize, list) => {
        const slots = 6
        const perSequence = Math.ceil(24 / pageSize)
        const table = new PageTable({ totalPages: affine ? slots * perSequence : 11, pageSize, maxPagesPerSequence: perSequence, affine })
        const mirror = new Mirror(table)
        let name = 0
        for (const move of list) {
          const ids = [...mirror.tokens.keys()]
          if (move.kind === 'grow') {
            const remove = ids.filter((_, i) => move.leave[i]! && i % 2 === 0)
            const stay = ids.filter((id) => !remove.includes(id))
            const fresh = Array.from({ length: Math.min(move.arrive, slots - stay.length) }, () => `s${name++}`)
            const counts = new Map([...stay, ...fresh].map((id, i) => [id as SequenceId, move.counts[i]!]))
            const full = code(() => mirror.grow(remove, counts))
            // A non-paged cache is only ever full when one sequence is too long.
            const tooLong = [...counts].some(([id, n]) => (mirror.tokens.get(id)?.length ?? 0) + n > perSequence * pageSize)
            if (affine && !tooLong) expect(full).toBeUndefined()
            else expect(full === undefined || full === 'KV_CACHE_FULL').toBe(true)
          } else if (move.kind === 'fork' && ids.length > 0 && ids.length < slots) {
            const from = ids[move.from % ids.length]!
            const to = `s${name++}`
            table.fork(from, to)
            mirror.tokens.set(to, [...mirror.tokens.get(from)!])
          } else if (move.kind === 'reorder' && ids.length > 0) {
            const sources = new Map(ids.map((id, i) => [id, ids[move.sources[i]! % ids.length]!]))
            const old = new Map(mirror.tokens)
            table.reassign(sources)
            for (const [to, from] of sources) mirror.tokens.set(to, [...old.get(from)!])
          } else if (move.kind === 'truncate' && ids.length > 0) {
            const id = ids[move.row % ids.length]!
            const kept = mirror.tokens.get(id)!.slice(0, move.keep)
            table.truncate(id, kept.length)
            mirror.tokens.set(id, kept)
          }
          mirror.check()
        }
        table.clear()
        expect(table.freePages).toBe(table.totalPages)
      }),
      { numRuns: 300 },
    )
  })
})
