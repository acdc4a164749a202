import { Construction, disposeAll, keep, Tensor, type Device } from '@octet-llm/kernels'

import type { ActiveArrays } from './step-arrays.js'

/** What a decode window of some width reads and what it advances, all at fixed addresses. */
export interface DecodeRows {
  /** Rows of every step, idle ones included. */
  readonly width: number
  /** i32 [width], cached tokens after the step; 0 for an idle row. */
  readonly kvLens: Tensor
  /** i32 [width], cached tokens before the step. */
  readonly starts: Tensor
  /** i32 [width], where the step's key goes; -1 for an idle row. */
  readonly positions: Tensor
}

interface WidthViews {
  readonly rows: DecodeRows
  readonly active: ActiveArrays
}

/**
 * The step arrays of decode windows: one token a row, rows past the batch idle. Unlike the arrays of other steps they
 * never move, and a device op may advance them, so a captured step runs again and again without the host.
 */
export class DecodeArrays {
  readonly host: { readonly cuSeqlensQ: Int32Array; readonly kvLens: Int32Array; readonly preStepSeqlens: Int32Array; readonly positions: Int32Array; readonly pageTable: Int32Array }
  readonly #capacity: number
  readonly #pages: number
  readonly #iota: Tensor
  readonly #lens: Tensor
  readonly #pageTable: Tensor
  readonly #hostLens: Int32Array
  /** What the device's page table holds. */
  readonly #sent: Int32Array
  readonly #views = new Map<number, WidthViews>()

  /** @param capacity largest width */
  constructor(device: Device, capacity: number, pagesPerRow: number) {
    using construction = new Construction()
    this.#capacity = capacity
    this.#pages = pagesPerRow
    const cuSeqlensQ = Int32Array.from({ length: capacity + 1 }, (_, i) => i)
    this.#iota = keep(Tensor.from(cuSeqlensQ, { shape: [capacity + 1], dtype: 'i32', device }))
    this.#lens = keep(Tensor.zeros([3 * capacity], { dtype: 'i32', device }))
    this.#pageTable = keep(Tensor.zeros([capacity, pagesPerRow], { dtype: 'i32', device }))
    this.#hostLens = new Int32Array(3 * capacity)
    this.#sent = new Int32Array(capacity * pagesPerRow)
    const part = (k: number) => this.#hostLens.subarray(k * capacity, (k + 1) * capacity)
    this.host = { cuSeqlensQ, kvLens: part(0), preStepSeqlens: part(1), positions: part(2), pageTable: new Int32Array(capacity * pagesPerRow) }
    construction.complete()
  }

  get byteLength(): number {
    return this.#iota.byteLength + this.#lens.byteLength + this.#pageTable.byteLength
  }

  /**
   * Sets the state before the first step of a window.
   * @param before cached tokens of each row
   * @param pages of each row, those of the window's tokens included
   */
  fill(before: readonly number[], pages: readonly (readonly number[])[]): void {
    const { kvLens, preStepSeqlens, positions, pageTable } = this.host
    this.#hostLens.fill(0)
    positions.fill(-1)
    before.forEach((length, row) => {
      kvLens[row] = length + 1
      preStepSeqlens[row] = length
      positions[row] = length
      pageTable.set(pages[row]!, row * this.#pages)
    })
    this.#lens.write(this.#hostLens)
    if (Buffer.compare(bytesOf(pageTable), bytesOf(this.#sent)) === 0) return
    this.#pageTable.write(pageTable)
    this.#sent.set(pageTable)
  }

  /** @param width 1 … capacity */
  views(width: number): WidthViews {
    const held = this.#views.get(width)
    if (held !== undefined) return held
    const part = (k: number) => keep(this.#lens.rows(k * this.#capacity, k * this.#capacity + width))
    const [kvLens, starts, positions] = [part(0), part(1), part(2)] as const
    const places = keep(this.#iota.rows(0, width))
    const made: WidthViews = {
      rows: { width, kvLens, starts, positions },
      active: {
        cuSeqlensQ: keep(this.#iota.rows(0, width + 1)),
        kvLens,
        preStepSeqlens: starts,
        lastTokens: places,
        pageTable: keep(this.#pageTable.rows(0, width)),
        rowOf: places,
        positions,
        // An idle row has an angle too, though its key goes nowhere.
        ropePositions: starts,
      },
    }
    this.#views.set(width, made)
    return made
  }

  dispose(): void {
    disposeAll([...this.#views.values()].flatMap(({ active }) => Object.values(active) as Tensor[]))
    disposeAll([this.#iota, this.#lens, this.#pageTable])
  }
}

function bytesOf(values: Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}
