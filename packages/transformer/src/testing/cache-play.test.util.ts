/**
 * Random traffic over KV caches, for property tests: sequences arrive and leave, bring chunks of any size, fork and are
 * reordered, on several caches at once, beside plain token lists that say what each sequence is.
 */
import type { InferenceParams, SequenceId } from '@octet-llm/kv-cache'
import * as fc from 'fast-check'
import { expect } from 'vitest'

export type Move =
  | { readonly kind: 'step'; readonly counts: readonly number[]; readonly leave: readonly boolean[]; readonly arrive: number }
  | { readonly kind: 'fork'; readonly from: number }
  | { readonly kind: 'reorder'; readonly sources: readonly number[] }

/** Most rows of the caches that are played on. */
export const ROWS = 4

const row = fc.nat(ROWS - 1)
const list = <T>(arbitrary: fc.Arbitrary<T>) => fc.array(arbitrary, { minLength: ROWS, maxLength: ROWS })

/** @param longest most tokens of an occasional long chunk */
export function moves(longest: number): fc.Arbitrary<Move[]> {
  const count = fc.oneof({ weight: 6, arbitrary: fc.constant(1) }, { weight: 5, arbitrary: fc.nat(7) }, { weight: 1, arbitrary: fc.integer({ min: 8, max: longest }) })
  const move = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('step' as const), counts: list(count), leave: list(fc.nat(4).map((n) => n === 0)), arrive: fc.nat(2) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('fork' as const), from: row }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('reorder' as const), sources: list(row) }) },
  )
  return fc.array(move, { minLength: 3, maxLength: 14 })
}

/** A row of a step: the sequence so far, the step's tokens last. */
export interface PlayedRow {
  readonly id: SequenceId
  readonly tokens: readonly number[]
  /** How many of them are new. */
  readonly count: number
}

/** What a refused step must leave alone. */
function stateOf(params: InferenceParams): unknown {
  const { order, freePages, host } = params
  return {
    order: [...order],
    freePages,
    sequences: order.map((id) => [params.sequenceLength(id), [...params.sequencePages(id)]]),
    host: Object.values(host).map((values) => [...values]),
  }
}

/** Caches in lockstep. The first may run out of pages: what it refuses nobody does. */
export class CachePlay {
  readonly #caches: readonly InferenceParams[]
  readonly #lists = new Map<SequenceId, number[]>()
  #nextId = 0
  #nextToken = 0
  refused = 0

  constructor(caches: readonly InferenceParams[]) {
    this.#caches = caches
  }

  /** Tokens of every sequence. */
  get lists(): ReadonlyMap<SequenceId, readonly number[]> {
    return this.#lists
  }

  /** Plays a move. @returns the rows of a step, after every cache's preStep; null for a move that runs nothing */
  play(move: Move): PlayedRow[] | null {
    const ids = [...this.#caches[0]!.order]
    if (move.kind === 'step') return this.#step(move, ids)
    if (move.kind === 'fork' && ids.length > 0 && ids.length < ROWS) {
      const from = ids[move.from % ids.length]!
      const to = this.#nextId++
      for (const cache of this.#caches) cache.fork(from, to)
      this.#lists.set(to, [...this.#lists.get(from)!])
    } else if (move.kind === 'reorder' && ids.length > 0) {
      const sources = ids.map((_, i) => move.sources[i]! % ids.length)
      for (const cache of this.#caches) cache.reorder(sources)
      const old = new Map(this.#lists)
      for (const [r, id] of ids.entries()) this.#lists.set(id, [...old.get(ids[sources[r]!]!)!])
    }
    return null
  }

  #step(move: Move & { readonly kind: 'step' }, ids: readonly SequenceId[]): PlayedRow[] | null {
    const stay = ids.filter((_, i) => !move.leave[i])
    const fresh = Array.from({ length: Math.min(move.arrive, ROWS - stay.length) }, () => this.#nextId++)
    const counts = new Map([...stay, ...fresh].map((id, i) => [id, move.counts[i]!]))
    const [first, ...others] = this.#caches as [InferenceParams, ...InferenceParams[]]
    const before = stateOf(first)
    try {
      first.preStep(counts)
    } catch (error) {
      expect(error).toMatchObject({ code: 'KV_CACHE_FULL' })
      expect(stateOf(first)).toEqual(before)
      this.refused += 1
      return null
    }
    for (const cache of others) cache.preStep(counts)
    for (const id of ids) if (!counts.has(id)) this.#lists.delete(id)
    return first.order.map((id) => {
      const count = counts.get(id)!
      const tokens = [...(this.#lists.get(id) ?? []), ...Array.from({ length: count }, () => this.#nextToken++)]
      this.#lists.set(id, tokens)
      return { id, tokens, count }
    })
  }
}

/** How often properties over caches run: full counts in the slow tier. */
export function runs(fast: number, slow: number): number {
  return process.env['OCTET_SLOW'] === '1' ? slow : fast
}

/** Layouts of a cache of `length` tokens a row, pages of 1 to 256, most with fewer pages than the worst case. */
export function layouts(length: number): fc.Arbitrary<{ readonly pageSize: number; readonly totalNumPages: number }> {
  return fc.tuple(fc.constantFrom(1, 2, 3, 7, 16, 64, 100, 256), fc.double({ min: 0.15, max: 1, noNaN: true })).map(([pageSize, share]) => {
    const worst = ROWS * Math.ceil(length / pageSize)
    return { pageSize, totalNumPages: Math.max(2, Math.ceil(share * worst)) }
  })
}
