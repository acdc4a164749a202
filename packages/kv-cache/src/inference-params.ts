import { OctetError } from '@octet-llm/core'
import { Construction, disposeAll, kvAppend, scope, type Device, type Tensor } from '@octet-llm/kernels'

import { CacheBuffers, type KvDType, type LayerCache } from './buffers.js'
import { DecodeArrays, type DecodeRows } from './decode-arrays.js'
import { validateOptions, type InferenceParamsOptions, type QkvFormat } from './options.js'
import { checkTokens, paddedIndex, type StepShape } from './padded.js'
import { PageTable, type SequenceId } from './pages.js'
import { StepArrays, type ActiveArrays } from './step-arrays.js'
import { checkStep, planStep, tooManySequences, type EvictionHook, type StepPlan } from './step-plan.js'

/**
 * The KV cache of a batch of sequences and what every layer must know about the current step.
 *
 * Once a step: `preStep(new tokens by sequence)`; then every layer appends its keys and values and attends. Rows of the
 * batch are the sequences in order of arrival (`order`); a removal closes the gap and keeps the others' order, and no
 * cached token moves. The device arrays are written in place and keep their addresses.
 */
export class InferenceParams {
  readonly device: Device
  readonly numLayers: number
  readonly maxBatchSize: number
  readonly maxSequenceLength: number
  readonly numHeadsKv: number
  readonly headDimK: number
  readonly headDimV: number
  readonly dtype: KvDType
  readonly isPaged: boolean
  readonly pageSize: number
  readonly totalNumPages: number
  readonly qkvFormat: QkvFormat
  readonly #maxCtxLen: number
  readonly #evict: EvictionHook | undefined
  readonly #table: PageTable
  readonly #buffers: CacheBuffers
  readonly #arrays: StepArrays
  #order: readonly SequenceId[] = []
  #counts: readonly number[] = []
  #active: ActiveArrays | undefined
  #totalTokens = 0
  #maxSeqlenQ = 0
  #maxSeqlenKv = 0
  /** Pages changed hands since the last step: every row of the page table goes to the device anew. */
  #stale = false
  #decode: DecodeArrays | undefined
  /** The decode window that has begun: its width, and cached tokens of each sequence before it. */
  #window: { readonly width: number; readonly before: readonly number[] } | undefined
  /** The eviction hook is running. */
  #planning = false
  #disposed = false

  /** @throws OctetError `INVALID_ARGUMENT` naming the argument; `OUT_OF_MEMORY` */
  constructor(options: InferenceParamsOptions) {
    const pageSize = validateOptions(options)
    const pagesPerSequence = Math.ceil(options.maxSequenceLength / pageSize)
    this.device = options.device
    this.numLayers = options.numLayers
    this.maxBatchSize = options.maxBatchSize
    this.maxSequenceLength = options.maxSequenceLength
    this.numHeadsKv = options.numHeadsKv
    this.headDimK = options.headDimK
    this.headDimV = options.headDimV ?? options.headDimK
    this.dtype = options.dtype
    this.isPaged = options.isPaged ?? false
    this.pageSize = pageSize
    this.totalNumPages = options.totalNumPages ?? options.maxBatchSize * pagesPerSequence
    this.qkvFormat = options.qkvFormat ?? 'bshd'
    this.#maxCtxLen = options.maxCtxLen ?? options.maxSequenceLength
    this.#evict = options.evict
    this.#table = new PageTable({
      totalPages: this.totalNumPages,
      pageSize,
      maxPagesPerSequence: pagesPerSequence,
      affine: !this.isPaged,
    })
    using construction = new Construction()
    this.#buffers = new CacheBuffers(options.device, options.dtype, {
      layers: options.numLayers,
      pages: this.totalNumPages,
      heads: options.numHeadsKv,
      pageSize,
      headDim: options.headDimK,
    }, options.kvScales)
    const tokens = options.maxBatchSize * (options.maxCtxLen ?? 1)
    this.#arrays = new StepArrays(options.device, options.maxBatchSize, pagesPerSequence, tokens)
    construction.complete()
  }

  /** Sequence of each row. */
  get order(): readonly SequenceId[] {
    return this.#order
  }

  /** B: rows of the current step. */
  get batchSize(): number {
    return this.#window?.width ?? this.#order.length
  }

  /** T: new tokens of the current step, all rows together. */
  get totalTokens(): number {
    return this.#totalTokens
  }

  /** Most new tokens of a row in the current step. */
  get maxSeqlenQ(): number {
    return this.#maxSeqlenQ
  }

  /** Most cached tokens of a row, this step's included. */
  get maxSeqlenKv(): number {
    return this.#maxSeqlenKv
  }

  /** i32 [maxBatchSize + 1] */
  get cuSeqlensQ(): Tensor {
    return this.#arrays.cuSeqlensQ
  }

  /** i32 [maxBatchSize], after this step's tokens. */
  get kvLens(): Tensor {
    return this.#arrays.kvLens
  }

  /** i32 [maxBatchSize], before this step's tokens: where RoPE starts. */
  get preStepSeqlens(): Tensor {
    return this.#arrays.preStepSeqlens
  }

  /** i32 [maxBatchSize]: last packed token of each row. */
  get lastTokens(): Tensor {
    return this.#arrays.lastTokens
  }

  /** i32 [maxBatchSize, pages of a sequence] */
  get pageTable(): Tensor {
    return this.#arrays.pageTable
  }

  /** i32, one entry a packed token (capacity may be larger). */
  get rowOf(): Tensor {
    return this.#arrays.rowOf
  }

  /** i32, one entry a packed token (capacity may be larger). */
  get positions(): Tensor {
    return this.#arrays.positions
  }

  /** The arrays cut to the current batch and tokens. @throws OctetError `INVALID_ARGUMENT` before the first preStep. */
  get active(): ActiveArrays {
    if (this.#active === undefined) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'InferenceParams', message: '[InferenceParams] call preStep() before a layer uses the cache' })
    }
    return this.#active
  }

  /** Host mirrors of the device arrays. Read only. */
  get host(): { readonly cuSeqlensQ: Int32Array; readonly kvLens: Int32Array; readonly preStepSeqlens: Int32Array; readonly pageTable: Int32Array; readonly positions: Int32Array } {
    if (this.#window !== undefined) return this.#decode!.host
    return { ...this.#arrays.host, positions: this.#arrays.hostPositions.subarray(0, this.#totalTokens) }
  }

  /** Pages that no sequence holds. */
  get freePages(): number {
    return this.#table.freePages
  }

  /** Bytes of keys, values and step arrays on the device. */
  get memoryBytes(): number {
    return this.#buffers.byteLength + this.#arrays.byteLength + (this.#decode?.byteLength ?? 0)
  }

  /** Cached tokens of a sequence; 0 when it is not in the cache. */
  sequenceLength(id: SequenceId): number {
    return this.#table.length(id)
  }

  /** The pages of a sequence, in token order. */
  sequencePages(id: SequenceId): readonly number[] {
    return this.#table.pages(id)
  }

  /**
   * Begins a step. Sequences that `newTokens` does not name leave the cache; new ones join at the end of the batch, in
   * the map's order; a count of 0 keeps a sequence idle (its row is an empty range). Packed tokens follow `order`. Where
   * pages are missing, the option `evict` may name idle sequences that then leave too: look at `order`.
   * @throws OctetError `KV_CACHE_FULL` when sequences, tokens or pages do not fit, `CONTEXT_TOO_LONG` past maxCtxLen,
   * `INVALID_ARGUMENT` for a count that is not a whole number ≥ 0. Nothing has changed then.
   */
  preStep(newTokens: ReadonlyMap<SequenceId, number>): void {
    this.#alive('preStep')
    this.#noWindow('preStep')
    const { remove, order, before, counts } = this.#plan(newTokens, this.#evict)
    const held = order.map((id) => this.#table.pages(id).length)
    const copies = this.#table.apply({ remove, append: new Map(order.map((id, row) => [id, counts[row]!])) })
    const copied = new Set(copies.map((copy) => copy.to))

    const previous = this.#order
    this.#order = order
    this.#counts = counts
    this.#totalTokens = counts.reduce((sum, n) => sum + n, 0)
    this.#maxSeqlenQ = Math.max(0, ...counts)
    this.#maxSeqlenKv = Math.max(0, ...order.map((id) => this.#table.length(id)))
    for (const [row, id] of order.entries()) {
      const pages = this.#table.pages(id)
      const grew = pages.length !== held[row] || (copied.size > 0 && pages.some((page) => copied.has(page)))
      if (grew || this.#stale || previous[row] !== id) this.#arrays.setPages(row, pages)
    }
    this.#stale = false
    this.#arrays.flushPages()
    this.#buffers.copyPages(copies)
    this.#arrays.fill(before, counts)
    this.#active = this.#arrays.active
  }

  /**
   * Begins a window of decode steps, one token a row, that go on without the host: pages for all of them are taken now,
   * and what layers read lies at fixed addresses, so that one captured step serves every window of its width. An op
   * (advanceDecode) moves {@link DecodeRows} on between two steps. Sequences join and leave as in {@link preStep}; rows
   * past the last one are idle. {@link endDecode} closes the window.
   * @param newTokens most tokens of each sequence in the window, ≥ 1
   * @param width rows of every step, at least the number of sequences
   * @throws OctetError as preStep; `INVALID_ARGUMENT` for a width that is too small. Nothing has changed then.
   */
  beginDecode(newTokens: ReadonlyMap<SequenceId, number>, width: number): DecodeRows {
    this.#alive('beginDecode')
    this.#noWindow('beginDecode')
    const capacity = 2 ** Math.ceil(Math.log2(this.maxBatchSize))
    if (!Number.isSafeInteger(width) || width < newTokens.size || width > capacity || [...newTokens.values()].some((n) => n < 1)) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'beginDecode', argument: 'width', expected: `${newTokens.size} to ${capacity} rows of at least one new token`, received: String(width) })
    }
    const { remove, order, before } = this.#plan(newTokens)
    const copies = this.#table.apply({ remove, append: newTokens })
    this.#buffers.copyPages(copies)
    this.#decode ??= new DecodeArrays(this.device, capacity, Math.ceil(this.maxSequenceLength / this.pageSize))
    this.#decode.fill(before, order.map((id) => this.#table.pages(id)))
    const { active, rows } = this.#decode.views(width)
    this.#order = order
    this.#window = { width, before }
    this.#counts = Array.from({ length: width }, () => 1)
    this.#totalTokens = width
    this.#maxSeqlenQ = 1
    // A captured step must not depend on how long its sequences are now.
    this.#maxSeqlenKv = this.maxSequenceLength
    this.#active = active
    return rows
  }

  /**
   * Closes a decode window and gives back the pages that it did not need. The step arrays are invalid until the next
   * preStep or beginDecode.
   * @param used tokens that each sequence has cached in the window, at most as announced; absent ones: none
   * @throws OctetError `INVALID_ARGUMENT`
   */
  endDecode(used: ReadonlyMap<SequenceId, number>): void {
    this.#alive('endDecode')
    if (this.#window === undefined) throw new OctetError('INVALID_ARGUMENT', { op: 'endDecode', message: '[endDecode] no decode window has begun' })
    for (const [row, id] of this.#order.entries()) this.#table.truncate(id, this.#window.before[row]! + (used.get(id) ?? 0))
    this.#closeWindow()
  }

  /** Keys and values of a layer. @param layer 1-based. @throws OctetError `INVALID_ARGUMENT` */
  layerCache(layer: number): LayerCache {
    this.#alive('layerCache')
    return this.#buffers.layer(layer)
  }

  /**
   * Appends the step's keys and values to a layer. Layers that fuse the append into RoPE do not need it.
   * @param layer 1-based
   * @param k `thd` [T, Hkv, D]; `bshd` [B, S, Hkv, D] or `sbhd` [S, B, Hkv, D] with a row's tokens first and pads after
   * @param v as k
   * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT`
   */
  step(layer: number, k: Tensor, v: Tensor): void {
    const cache = this.layerCache(layer)
    const active = this.active
    const step: StepShape = { format: this.qkvFormat, counts: this.#counts, totalTokens: this.#totalTokens, heads: this.numHeadsKv, headDim: this.headDimK }
    const tokens = checkTokens(step, 'k', k.shape)
    checkTokens(step, 'v', v.shape)
    scope(() => {
      const padded = paddedIndex(step, tokens, this.host.preStepSeqlens, this.device)
      const views = [k, v].map((t) => t.view([tokens, this.numHeadsKv * this.headDimK])) as [Tensor, Tensor]
      kvAppend({
        k: views[0],
        v: views[1],
        kCache: cache.k,
        vCache: cache.v,
        pageTable: active.pageTable,
        rowOf: padded?.rowOf ?? active.rowOf,
        positions: padded?.positions ?? active.positions,
        kScaleInv: cache.kScaleInv,
        vScaleInv: cache.vScaleInv,
        kvHeads: this.numHeadsKv,
        headDim: this.headDimK,
      })
    })
  }

  /** Forgets every sequence; memory and addresses stay. */
  reset(): void {
    this.#alive('reset')
    this.#closeWindow()
    this.#table.clear()
    this.#order = []
    this.#counts = []
    this.#totalTokens = this.#maxSeqlenQ = this.#maxSeqlenKv = 0
    this.#active = undefined
  }

  /**
   * Beam search: row r continues from what row `source[r]` has cached. No token is copied until a shared, partly filled
   * page is written by the next step.
   * @param source one row index for each row of the batch
   * @throws OctetError `INVALID_ARGUMENT`, also within a decode window
   */
  reorder(source: ArrayLike<number>): void {
    this.#alive('reorder')
    this.#noWindow('reorder')
    const batch = this.batchSize
    const rows = Array.from(source)
    if (rows.length !== batch || rows.some((r) => !Number.isInteger(r) || r < 0 || r >= batch)) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'reorder', argument: 'source', expected: `${batch} row indices below ${batch}`, received: `[${rows.join(', ')}]` })
    }
    const moved = rows.flatMap((from, row) => (from === row ? [] : [row]))
    this.#table.reassign(new Map(moved.map((row) => [this.#order[row]!, this.#order[rows[row]!]!])))
    this.#stale = true
  }

  /**
   * A new sequence `to` that shares what `from` has cached; it joins the batch at the next preStep that names it.
   * @throws OctetError `INVALID_ARGUMENT`, also within a decode window; `KV_CACHE_FULL` when all slots are taken
   */
  fork(from: SequenceId, to: SequenceId): void {
    this.#alive('fork')
    this.#noWindow('fork')
    if (this.#order.length >= this.maxBatchSize) throw tooManySequences(this.#order.length + 1, this.maxBatchSize)
    this.#table.fork(from, to)
    this.#order = [...this.#order, to]
    this.#counts = [...this.#counts, 0]
    this.#stale = true
    this.#active = undefined
  }

  /** Forgets the tokens of a sequence from `length` on (speculation). @throws OctetError `INVALID_ARGUMENT`, also within a decode window */
  truncate(id: SequenceId, length: number): void {
    this.#alive('truncate')
    this.#noWindow('truncate')
    this.#table.truncate(id, length)
  }

  /**
   * Frees the cache. Idempotent.
   * @throws OctetError `TENSOR_IN_GRAPH` while a graph uses it: a call after the graph's end frees what is left
   */
  dispose(): void {
    this.#disposed = true
    disposeAll([this.#arrays, this.#decode, this.#buffers])
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #closeWindow(): void {
    if (this.#window === undefined) return
    this.#window = undefined
    this.#counts = this.#order.map(() => 0)
    this.#totalTokens = 0
    this.#active = undefined
    this.#stale = true
  }

  #noWindow(op: string): void {
    if (this.#window !== undefined) throw new OctetError('INVALID_ARGUMENT', { op, message: `[${op}] a decode window is open; call endDecode() first` })
  }

  #plan(newTokens: ReadonlyMap<SequenceId, number>, evict?: EvictionHook): StepPlan {
    checkStep(this.#table, newTokens, { maxBatchSize: this.maxBatchSize, maxSequenceLength: this.maxSequenceLength, maxCtxLen: this.#maxCtxLen })
    this.#planning = true
    try {
      return planStep(this.#table, this.#order, newTokens, evict)
    } finally {
      this.#planning = false
    }
  }

  #alive(op: string): void {
    if (this.#disposed) throw new OctetError('DISPOSED', { op, message: `[${op}] the KV cache was disposed; create a new one` })
    if (this.#planning) throw new OctetError('INVALID_ARGUMENT', { op, message: `[${op}] the eviction hook must not use the cache; return the sequences to forget` })
  }
}
