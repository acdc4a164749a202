import { OctetError } from '@octet-llm/core'

/** Reference-counted page numbers 0 … total-1. A page is free while nothing refers to it. */
export class PagePool {
  readonly total: number
  readonly #references: Int32Array
  /** Pages to hand out, last first. May hold pages that were since taken by preference: those are skipped. */
  readonly #stack: Int32Array
  #stackSize: number
  /** 1 while a page stands on the stack, so that it never stands there twice. */
  readonly #stacked: Uint8Array
  #free: number

  constructor(total: number) {
    this.total = total
    this.#references = new Int32Array(total)
    this.#stack = Int32Array.from({ length: total }, (_, i) => total - 1 - i)
    this.#stackSize = total
    this.#stacked = new Uint8Array(total).fill(1)
    this.#free = total
  }

  get free(): number {
    return this.#free
  }

  references(page: number): number {
    return this.#references[page] ?? 0
  }

  /** A free page, `preferred` if that one is free. @throws OctetError `KV_CACHE_FULL` */
  take(preferred?: number): number {
    const page = preferred !== undefined && preferred < this.total && this.#references[preferred] === 0 ? preferred : this.#pop()
    this.#references[page] = 1
    this.#free -= 1
    return page
  }

  retain(page: number): void {
    if (this.references(page) < 1) throw unowned('retain', page)
    this.#references[page]! += 1
  }

  release(page: number): void {
    if (this.references(page) < 1) throw unowned('release', page)
    this.#references[page]! -= 1
    if (this.#references[page] !== 0) return
    this.#free += 1
    if (this.#stacked[page] === 1) return
    this.#stack[this.#stackSize++] = page
    this.#stacked[page] = 1
  }

  #pop(): number {
    while (this.#stackSize > 0) {
      const page = this.#stack[--this.#stackSize]!
      this.#stacked[page] = 0
      if (this.#references[page] === 0) return page
    }
    throw new OctetError('KV_CACHE_FULL', { op: 'PagePool', argument: 'take', expected: 'a free page', received: `${this.total} of ${this.total} in use` })
  }
}

function unowned(op: string, page: number): OctetError {
  return new OctetError('INVALID_ARGUMENT', { op: `PagePool.${op}`, argument: 'page', expected: 'a page in use', received: String(page) })
}
