import { OctetError } from '@octet-llm/core'

import { PagePool } from './page-pool.js'

export { PagePool }

/** A caller's name for a sequence. */
export type SequenceId = number | string

/** One page whose contents must be duplicated on the device before the step writes to it. */
export interface PageCopy {
  readonly from: number
  readonly to: number
}

/** A change of the whole batch: what leaves, then what grows. No sequence stands in both. */
export interface PageChange {
  readonly remove: readonly SequenceId[]
  /** New tokens by sequence, in order; a sequence that is not in the table yet is added. */
  readonly append: ReadonlyMap<SequenceId, number>
}

export interface PageTableOptions {
  /** Pages of the whole cache. */
  readonly totalPages: number
  /** Tokens a page holds, ≥ 1. */
  readonly pageSize: number
  /** Most pages one sequence may hold. */
  readonly maxPagesPerSequence: number
  /**
   * Non-paged cache: sequence slot s prefers pages `s * maxPagesPerSequence + i`, so that the table is affine until a
   * fork or a reorder shares pages.
   */
  readonly affine?: boolean
}

interface Entry {
  slot: number
  length: number
  pages: number[]
}

/**
 * Which pages hold which tokens, without any device: page lists by sequence, reference counts, copy-on-write.
 * A full page is never written again, so only a partly filled last page that two sequences share needs a copy, and only
 * when one of them grows. Every method checks before it changes anything.
 */
export class PageTable {
  readonly pageSize: number
  readonly totalPages: number
  readonly maxPagesPerSequence: number
  readonly #affine: boolean
  readonly #pool: PagePool
  readonly #entries = new Map<SequenceId, Entry>()

  /** @throws OctetError `INVALID_ARGUMENT` for a page size, page count or sequence limit below 1. */
  constructor(options: PageTableOptions) {
    for (const key of ['totalPages', 'pageSize', 'maxPagesPerSequence'] as const) {
      const value = options[key]
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new OctetError('INVALID_ARGUMENT', { op: 'PageTable', argument: key, expected: 'a whole number of at least 1', received: String(value) })
      }
    }
    this.pageSize = options.pageSize
    this.totalPages = options.totalPages
    this.maxPagesPerSequence = options.maxPagesPerSequence
    this.#affine = options.affine ?? false
    this.#pool = new PagePool(options.totalPages)
  }

  get freePages(): number {
    return this.#pool.free
  }

  get size(): number {
    return this.#entries.size
  }

  has(id: SequenceId): boolean {
    return this.#entries.has(id)
  }

  /** Tokens cached for a sequence; 0 for one that is not there. */
  length(id: SequenceId): number {
    return this.#entries.get(id)?.length ?? 0
  }

  /** Page numbers of a sequence in token order. */
  pages(id: SequenceId): readonly number[] {
    return this.#entries.get(id)?.pages ?? []
  }

  /** References held to a page by all sequences. */
  references(page: number): number {
    return this.#pool.references(page)
  }

  /** Pages that `change` takes from the pool beyond those its removals give back; negative when it frees some. */
  cost(change: PageChange): number {
    const delta = new Map<number, number>()
    const references = (page: number) => this.#pool.references(page) + (delta.get(page) ?? 0)
    let cost = 0
    for (const id of change.remove) {
      for (const page of this.pages(id)) {
        delta.set(page, (delta.get(page) ?? 0) - 1)
        if (references(page) === 0) cost -= 1
      }
    }
    for (const [id, count] of change.append) {
      if (count === 0) continue
      const length = this.length(id)
      cost += this.#pagesFor(length + count) - this.#pagesFor(length)
      const partial = this.#partialPage(id)
      if (partial !== undefined && references(partial) > 1) {
        cost += 1
        delta.set(partial, (delta.get(partial) ?? 0) - 1)
      }
    }
    return cost
  }

  /**
   * Applies a change and tells which pages must be copied first. Removals come before growth, so pages that leave serve
   * those that arrive.
   * @throws OctetError `KV_CACHE_FULL` when pages run out or a sequence outgrows its limit; nothing has changed then.
   */
  apply(change: PageChange): PageCopy[] {
    this.#check(change)
    for (const id of change.remove) this.#remove(id)
    const copies: PageCopy[] = []
    for (const [id, count] of change.append) this.#append(id, count, copies)
    return copies
  }

  /** A new sequence that shares all pages of another. @throws OctetError `INVALID_ARGUMENT` for unknown or taken ids. */
  fork(from: SequenceId, to: SequenceId): void {
    const source = this.#entry(from, 'fork')
    if (this.#entries.has(to)) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'fork', argument: 'to', expected: 'a sequence id that is not in the cache', received: String(to) })
    }
    this.#entries.set(to, { slot: this.#freeSlot(), length: source.length, pages: [...source.pages] })
    for (const page of source.pages) this.#pool.retain(page)
  }

  /**
   * Every target takes over the pages of its source at once (beam search). Sources may repeat; a source that nobody
   * keeps loses its pages.
   * @throws OctetError `INVALID_ARGUMENT` for an unknown id.
   */
  reassign(sources: ReadonlyMap<SequenceId, SequenceId>): void {
    const next: [Entry, number, number[]][] = []
    for (const [target, source] of sources) {
      const from = this.#entry(source, 'reorder')
      next.push([this.#entry(target, 'reorder'), from.length, [...from.pages]])
    }
    for (const [, , pages] of next) for (const page of pages) this.#pool.retain(page)
    for (const [entry, length, pages] of next) {
      for (const page of entry.pages) this.#pool.release(page)
      entry.length = length
      entry.pages = pages
    }
  }

  /** Forgets the tokens of a sequence past `length`. @throws OctetError `INVALID_ARGUMENT` for a length past the end. */
  truncate(id: SequenceId, length: number): void {
    const entry = this.#entry(id, 'truncate')
    if (!Number.isSafeInteger(length) || length < 0 || length > entry.length) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'truncate', argument: 'length', expected: `0 to ${entry.length}`, received: String(length) })
    }
    for (const page of entry.pages.splice(this.#pagesFor(length))) this.#pool.release(page)
    entry.length = length
  }

  clear(): void {
    for (const id of [...this.#entries.keys()]) this.#remove(id)
  }

  #check(change: PageChange): void {
    for (const [id, count] of change.append) {
      const length = this.length(id) + count
      if (this.#pagesFor(length) > this.maxPagesPerSequence) {
        throw new OctetError('KV_CACHE_FULL', {
          op: 'preStep',
          argument: `sequence ${id}`,
          expected: `at most ${this.maxPagesPerSequence * this.pageSize} tokens`,
          received: String(length),
          hint: 'create the cache with a larger maxSequenceLength',
        })
      }
    }
    const cost = this.cost(change)
    if (cost > this.#pool.free) {
      throw new OctetError('KV_CACHE_FULL', {
        op: 'preStep',
        argument: 'newTokens',
        expected: `at most ${this.#pool.free} more pages of ${this.pageSize} tokens`,
        received: String(cost),
        hint: 'remove a sequence or raise totalNumPages',
      })
    }
  }

  #append(id: SequenceId, count: number, copies: PageCopy[]): void {
    let entry = this.#entries.get(id)
    if (entry === undefined) {
      entry = { slot: this.#freeSlot(), length: 0, pages: [] }
      this.#entries.set(id, entry)
    }
    const partial = this.#partialPage(id)
    if (count > 0 && partial !== undefined && this.#pool.references(partial) > 1) {
      const to = this.#take(entry, entry.pages.length - 1)
      copies.push({ from: partial, to })
      this.#pool.release(partial)
      entry.pages[entry.pages.length - 1] = to
    }
    entry.length += count
    const wanted = this.#pagesFor(entry.length)
    while (entry.pages.length < wanted) entry.pages.push(this.#take(entry, entry.pages.length))
  }

  #take(entry: Entry, index: number): number {
    return this.#pool.take(this.#affine ? entry.slot * this.maxPagesPerSequence + index : undefined)
  }

  #remove(id: SequenceId): void {
    for (const page of this.pages(id)) this.#pool.release(page)
    this.#entries.delete(id)
  }

  #entry(id: SequenceId, op: string): Entry {
    const entry = this.#entries.get(id)
    if (entry === undefined) {
      throw new OctetError('INVALID_ARGUMENT', { op, argument: 'sequence', expected: 'a sequence id that is in the cache', received: String(id) })
    }
    return entry
  }

  /** The last page when it still has room, i.e. the one page that growth writes to. */
  #partialPage(id: SequenceId): number | undefined {
    const entry = this.#entries.get(id)
    return entry === undefined || entry.length % this.pageSize === 0 ? undefined : entry.pages.at(-1)
  }

  #pagesFor(tokens: number): number {
    return Math.ceil(tokens / this.pageSize)
  }

  #freeSlot(): number {
    const taken = new Set([...this.#entries.values()].map((entry) => entry.slot))
    let slot = 0
    while (taken.has(slot)) slot += 1
    return slot
  }
}
