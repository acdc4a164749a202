import { disposeAll, Tensor, type Device } from '@octet-llm/kernels'

/** Device views of exactly the rows and tokens of the current step; replaced by the next preStep. */
export interface ActiveArrays {
  /** i32 [B+1]: first token of each row among the packed tokens. */
  readonly cuSeqlensQ: Tensor
  /** i32 [B]: cached tokens of each row, this step's included. */
  readonly kvLens: Tensor
  /** i32 [B]: cached tokens before this step, i.e. the position of the row's first new token. */
  readonly preStepSeqlens: Tensor
  /** i32 [B]: index of each row's last new token among the packed tokens. */
  readonly lastTokens: Tensor
  /** i32 [B, P] */
  readonly pageTable: Tensor
  /** i32 [T]: row of each packed token. */
  readonly rowOf: Tensor
  /** i32 [T]: position of each packed token within its sequence. */
  readonly positions: Tensor
  /** i32 [T]: position whose angles a token takes, where that is not `positions`. */
  readonly ropePositions?: Tensor
}

const ALIGN = 16

/**
 * The i32 arrays that kernels read about a step: written in place, so that a captured graph sees the next step's values.
 * The per-row arrays share one buffer and reach the device in one write.
 */
export class StepArrays {
  readonly cuSeqlensQ: Tensor
  readonly kvLens: Tensor
  readonly preStepSeqlens: Tensor
  readonly lastTokens: Tensor
  readonly pageTable: Tensor
  readonly host: {
    readonly cuSeqlensQ: Int32Array
    readonly kvLens: Int32Array
    readonly preStepSeqlens: Int32Array
    readonly lastTokens: Int32Array
    readonly pageTable: Int32Array
  }
  readonly #device: Device
  readonly #header: Tensor
  readonly #hostHeader: Int32Array
  readonly #pages: number
  #rowOf: Tensor
  #positions: Tensor
  #hostRowOf: Int32Array
  #hostPositions: Int32Array
  #batchViews: Omit<ActiveArrays, 'rowOf' | 'positions'> | undefined
  #tokenViews: Pick<ActiveArrays, 'rowOf' | 'positions'> | undefined
  /** Rows of the page table that the device has not seen yet. */
  #dirtyBegin = Infinity
  #dirtyEnd = 0
  #batch = -1
  #tokens = -1

  /** @param tokens capacity of rowOf and positions; a longer step replaces both by longer ones. */
  constructor(device: Device, maxBatch: number, pagesPerRow: number, tokens: number) {
    const lengths = [maxBatch + 1, maxBatch, maxBatch, maxBatch]
    const begins: number[] = []
    let end = 0
    for (const length of lengths) {
      begins.push(end)
      end += Math.ceil(length / ALIGN) * ALIGN
    }
    this.#device = device
    this.#pages = pagesPerRow
    this.#header = Tensor.zeros([end], { dtype: 'i32', device })
    this.#hostHeader = new Int32Array(end)
    const part = (k: number) => this.#header.rows(begins[k]!, begins[k]! + lengths[k]!)
    const hostPart = (k: number) => this.#hostHeader.subarray(begins[k]!, begins[k]! + lengths[k]!)
    this.cuSeqlensQ = part(0)
    this.kvLens = part(1)
    this.preStepSeqlens = part(2)
    this.lastTokens = part(3)
    this.pageTable = Tensor.zeros([maxBatch, pagesPerRow], { dtype: 'i32', device })
    this.host = {
      cuSeqlensQ: hostPart(0),
      kvLens: hostPart(1),
      preStepSeqlens: hostPart(2),
      lastTokens: hostPart(3),
      pageTable: new Int32Array(maxBatch * pagesPerRow),
    }
    this.#rowOf = Tensor.empty([tokens], { dtype: 'i32', device })
    this.#positions = Tensor.empty([tokens], { dtype: 'i32', device })
    this.#hostRowOf = new Int32Array(tokens)
    this.#hostPositions = new Int32Array(tokens)
  }

  /** i32, at least as long as the step's tokens. */
  get rowOf(): Tensor {
    return this.#rowOf
  }

  /** i32, at least as long as the step's tokens. */
  get positions(): Tensor {
    return this.#positions
  }

  get hostPositions(): Int32Array {
    return this.#hostPositions
  }

  get byteLength(): number {
    return this.#header.byteLength + this.pageTable.byteLength + this.#rowOf.byteLength + this.#positions.byteLength
  }

  /** Puts one row's page list in the host mirror; {@link flushPages} uploads what changed. */
  setPages(row: number, pages: readonly number[]): void {
    this.host.pageTable.set(pages, row * this.#pages)
    this.#dirtyBegin = Math.min(this.#dirtyBegin, row)
    this.#dirtyEnd = Math.max(this.#dirtyEnd, row + 1)
  }

  flushPages(): void {
    const [begin, end] = [this.#dirtyBegin, this.#dirtyEnd]
    if (begin >= end) return
    const view = this.pageTable.rows(begin, end)
    view.write(this.host.pageTable.subarray(begin * this.#pages, end * this.#pages))
    view.dispose()
    this.#dirtyBegin = Infinity
    this.#dirtyEnd = 0
  }

  /**
   * Fills every array for a step.
   * @param before cached tokens of each row
   * @param counts new tokens of each row
   */
  fill(before: readonly number[], counts: readonly number[]): void {
    const batch = counts.length
    const total = counts.reduce((sum, n) => sum + n, 0)
    this.#reserve(total)
    const { cuSeqlensQ, kvLens, preStepSeqlens, lastTokens } = this.host
    let token = 0
    for (let row = 0; row < batch; row++) {
      cuSeqlensQ[row] = token
      preStepSeqlens[row] = before[row]!
      kvLens[row] = before[row]! + counts[row]!
      this.#hostRowOf.fill(row, token, token + counts[row]!)
      for (let j = 0; j < counts[row]!; j++) this.#hostPositions[token + j] = before[row]! + j
      token += counts[row]!
      lastTokens[row] = Math.max(0, token - 1)
    }
    // Idle rows are empty ranges, so a kernel launched for the maximal batch does nothing for them.
    cuSeqlensQ.fill(token, batch)
    kvLens.fill(0, batch)
    preStepSeqlens.fill(0, batch)
    lastTokens.fill(0, batch)
    this.#header.write(this.#hostHeader)
    this.#view(batch, total)
    if (total > 0) {
      this.#tokenViews!.rowOf.write(this.#hostRowOf.subarray(0, total))
      this.#tokenViews!.positions.write(this.#hostPositions.subarray(0, total))
    }
  }

  get active(): ActiveArrays {
    return { ...this.#batchViews!, ...this.#tokenViews! }
  }

  dispose(): void {
    this.#dropViews(this.#batchViews)
    this.#dropViews(this.#tokenViews)
    disposeAll([this.cuSeqlensQ, this.kvLens, this.preStepSeqlens, this.lastTokens, this.#header, this.pageTable, this.#rowOf, this.#positions])
  }

  /** A scope around the caller may have freed the views, and arrays that grew inside it: those are made again. */
  #view(batch: number, tokens: number): void {
    if (batch !== this.#batch || this.#batchViews!.kvLens.disposed) {
      this.#dropViews(this.#batchViews)
      this.#batchViews = {
        cuSeqlensQ: this.cuSeqlensQ.rows(0, batch + 1),
        kvLens: this.kvLens.rows(0, batch),
        preStepSeqlens: this.preStepSeqlens.rows(0, batch),
        lastTokens: this.lastTokens.rows(0, batch),
        pageTable: this.pageTable.rows(0, batch),
      }
      this.#batch = batch
    }
    if (tokens !== this.#tokens || this.#tokenViews!.rowOf.disposed) {
      this.#dropViews(this.#tokenViews)
      this.#tokenViews = { rowOf: this.#rowOf.rows(0, tokens), positions: this.#positions.rows(0, tokens) }
      this.#tokens = tokens
    }
  }

  #reserve(tokens: number): void {
    const held = this.#hostRowOf.length
    if (tokens <= held && !this.#rowOf.disposed) return
    const capacity = tokens <= held ? held : Math.max(tokens, 2 * held)
    this.#dropViews(this.#tokenViews)
    this.#tokenViews = undefined
    this.#tokens = -1
    this.#rowOf.dispose()
    this.#positions.dispose()
    this.#rowOf = Tensor.empty([capacity], { dtype: 'i32', device: this.#device })
    this.#positions = Tensor.empty([capacity], { dtype: 'i32', device: this.#device })
    this.#hostRowOf = new Int32Array(capacity)
    this.#hostPositions = new Int32Array(capacity)
  }

  #dropViews(views: object | undefined): void {
    if (views !== undefined) disposeAll(Object.values(views) as Tensor[])
  }
}
