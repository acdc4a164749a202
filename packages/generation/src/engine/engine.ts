import { OctetError } from '@octet-llm/core'
import type { Tensor } from '@octet-llm/kernels'
import type { InferenceParams, KvDType } from '@octet-llm/kv-cache'
import type { CausalLM } from '@octet-llm/transformer'
import { BeamTask } from './beam-task.js'
import { DecodeWindows } from './decode-windows.js'
import type { DeviceOps } from './device-ops.js'
import { Entry, type EngineHandle } from './entry.js'
import { kernelOps } from './kernel-ops.js'
import { RowTask } from './row-task.js'
import { selectTokens, type ReadyTask } from './select.js'
import type { CachedSequence, CacheEdit, EngineRequest, Task } from './task.js'

export interface EngineOptions {
  /** Rows of the cache: sequences, each beam counting as one. */
  readonly maxBatchSize: number
  /** Most tokens of a sequence in the cache: prompt and new tokens but the last. */
  readonly maxSequenceLength: number
  /** Most prompt tokens that one step takes, over all rows. Default: all on a CPU, 16384 on a GPU, whose activations grow with them. */
  readonly prefillChunkSize?: number | null
  /** Default false: room for maxBatchSize full sequences. */
  readonly isPaged?: boolean
  /** Tokens of a page. Default 64. */
  readonly pageSize?: number
  /** Paged only: pages of the cache; requests wait until theirs are free. Default: enough for all rows. */
  readonly totalNumPages?: number
  /** Default: the model's dtype. */
  readonly kvDtype?: KvDType
  /**
   * Default true: while every request decodes, steps are replayed from recordings, one for each power of two of rows,
   * where the model can be recorded. The tokens are the same.
   */
  readonly graphs?: boolean
  /**
   * Recorded decode steps that are enqueued ahead, ≥ 1, where no stop string, criterion or processor needs the host
   * between them. A request that waits joins once they are done. Default 8; on a CPU 2 where a row may end at an EOS id.
   */
  readonly stepsPerSync?: number
}

const DEFAULT_PAGE_SIZE = 64

/** Enough for the arithmetic to run at its best; the activations of more would take gigabytes. */
const GPU_PREFILL_TOKENS = 16384

/**
 * Continuous batching: requests join and leave between steps, and each step runs one packed forward over the prompts
 * that wait and one token of every sequence that decodes. A request enters only when the cache has room for the
 * longest it may become, so it never fails half way for want of pages; until then it waits its turn.
 *
 * A row's tokens do not depend on its batch-mates, on when they come and go, or on chunks.
 */
export class Engine {
  readonly #model: CausalLM
  readonly #ops: DeviceOps
  readonly #params: InferenceParams
  readonly #options: EngineOptions
  readonly #pageSize: number
  readonly #totalPages: number
  readonly #windows: DecodeWindows<Entry>
  #waiting: Entry[] = []
  #live: Entry[] = []
  #nextId = 0
  #stepping = false
  /** Whether the cache holds rows. */
  #occupied = false
  #disposed = false

  /** @throws OctetError `INVALID_ARGUMENT`, `OUT_OF_MEMORY` from the cache */
  constructor(model: CausalLM, options: EngineOptions) {
    const { prefillChunkSize: _, graphs = true, stepsPerSync, ...cache } = options
    if (stepsPerSync !== undefined) checkWhole('stepsPerSync', stepsPerSync)
    this.#model = model
    this.#ops = kernelOps(model.device)
    this.#options = options
    this.#pageSize = options.pageSize ?? DEFAULT_PAGE_SIZE
    this.#totalPages = options.totalNumPages ?? Infinity
    this.#params = model.createInferenceParams(cache)
    this.#windows = new DecodeWindows(model, this.#params, this.#ops, { stepsPerSync, graphs, maxSequenceLength: options.maxSequenceLength })
  }

  /** Requests that are not done. */
  get pending(): number {
    return this.#waiting.length + this.#live.length
  }

  /** Rows of the cache in use. */
  get rows(): number {
    return this.#live.reduce((sum, entry) => sum + entry.task.sequences.length, 0)
  }

  /**
   * Queues a request for the coming steps.
   * @throws OctetError `INVALID_ARGUMENT`; `CONTEXT_TOO_LONG` when it could never fit the cache
   */
  add(request: EngineRequest): EngineHandle {
    this.#alive('add')
    checkRequest(request)
    const beams = request.config.numBeams
    const ids = Array.from({ length: beams }, () => this.#nextId++)
    const task = beams > 1 ? new BeamTask(request, ids) : new RowTask(request, ids[0]!)
    const pages = task.maxRows * Math.ceil(task.maxTokens / this.#pageSize)
    this.#checkFit(task, pages)
    const entry = new Entry(task, pages)
    this.#waiting.push(entry)
    return entry
  }

  /** Ends a request now; its rows are free from the next step on, or at once when no other request is live. */
  remove(handle: EngineHandle): void {
    const entry = [...this.#waiting, ...this.#live].find((e) => e === handle)
    if (entry === undefined) return
    entry.task.abort()
    this.#sweep()
  }

  /**
   * One forward over the live requests, or the next step of those that were enqueued together. Errors of a request's own functions end that request; an error of the model
   * or the device ends all. Returns whether there is more to do.
   * @throws OctetError `INVALID_ARGUMENT` while another step runs, `DISPOSED`
   */
  async step(): Promise<boolean> {
    this.#alive('step')
    if (this.#stepping) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'Engine.step', message: '[Engine.step] a step is running; await it before the next' })
    }
    this.#stepping = true
    try {
      if (!this.#windows.open) this.#admit()
      if (this.#live.length > 0 && !(await this.#windows.step(this.#live, this.#waiting.length > 0))) await this.#run()
    } catch (error) {
      for (const entry of this.#live) entry.fail(error)
    } finally {
      this.#stepping = false
      this.#sweep()
    }
    return this.pending > 0
  }

  /** Ends every request and frees the cache. Idempotent; not while a step runs. */
  dispose(): void {
    if (this.#disposed) return
    for (const entry of [...this.#waiting, ...this.#live]) entry.task.abort()
    this.#waiting = []
    this.#live = []
    this.#disposed = true
    this.#windows.dispose()
    this.#params.dispose()
  }

  #alive(op: string): void {
    if (this.#disposed) throw new OctetError('DISPOSED', { op: `Engine.${op}`, message: `[Engine.${op}] the engine was disposed; create a new one` })
  }

  #checkFit(task: Task, pages: number): void {
    const { maxBatchSize, maxSequenceLength } = this.#options
    const refuse = (argument: string, expected: string, received: string): never => {
      throw new OctetError('CONTEXT_TOO_LONG', {
        op: 'generate', argument, expected, received, hint: 'shorten the prompt or maxNewTokens, or give the engine a larger cache',
      })
    }
    if (task.maxTokens > maxSequenceLength) refuse('tokens', `at most ${maxSequenceLength} in a sequence`, String(task.maxTokens))
    if (task.maxRows > maxBatchSize) refuse('numBeams', `at most ${maxBatchSize} rows`, String(task.maxRows))
    if (pages > this.#totalPages) refuse('pages', `at most ${this.#totalPages}`, String(pages))
  }

  /** First come, first served: the queue waits behind a request that has no room yet. */
  #admit(): void {
    let rows = this.#live.reduce((sum, e) => sum + e.task.maxRows, 0)
    let pages = this.#live.reduce((sum, e) => sum + e.pages, 0)
    while (this.#waiting.length > 0) {
      const entry = this.#waiting[0]!
      rows += entry.task.maxRows
      pages += entry.pages
      if (rows > this.#options.maxBatchSize || pages > this.#totalPages) return
      this.#live.push(entry)
      this.#waiting.shift()
    }
  }

  async #run(): Promise<void> {
    const counts = this.#schedule()
    this.#occupied = true
    this.#params.preStep(counts)
    const order = this.#params.order.map(Number)
    const rowOf = new Map(order.map((id, row) => [id, row]))
    const sequences = new Map(this.#live.flatMap((e) => e.task.sequences.map((s) => [s.id, s] as const)))
    const tokens = this.#ops.upload(packTokens(order, counts, sequences))
    for (const [id, count] of counts) sequences.get(id)!.cached += count
    const ready: ReadyTask<Entry>[] = []
    for (const entry of this.#live) {
      if (entry.task.sequences.some((s) => s.cached < s.ids.length)) continue
      entry.prefilled = true
      ready.push({ owner: entry, task: entry.task, rows: entry.task.sequences.map((s) => rowOf.get(s.id)!) })
    }
    const logits = this.#forward(tokens, ready.length > 0)
    if (logits === null) return
    const edits: CacheEdit[] = []
    try {
      for (const { owner, accept } of await selectTokens(this.#ops, logits, ready)) {
        if (owner.done) continue
        try {
          edits.push(await accept())
        } catch (error) {
          owner.fail(error)
        }
      }
    } finally {
      logits.dispose()
    }
    this.#editCache(edits, order)
  }

  #forward(tokens: Tensor, wanted: boolean): Tensor | null {
    try {
      return this.#model.step(tokens, this.#params, { logits: wanted ? 'last' : 'none' })
    } finally {
      tokens.dispose()
    }
  }

  /** Tokens of each sequence in this step: one where it decodes, a share of the budget where its prompt waits. */
  #schedule(): Map<number, number> {
    let budget = this.#options.prefillChunkSize ?? (this.#model.device.kind === 'cpu' ? Infinity : GPU_PREFILL_TOKENS)
    const counts = new Map<number, number>()
    for (const { task, prefilled } of this.#live) {
      for (const s of task.sequences) {
        const waiting = s.ids.length - s.cached
        const count = prefilled ? waiting : Math.min(waiting, budget)
        if (!prefilled) budget -= count
        // A prompt that has not begun stays out of the cache; one half done stays in it, idle.
        if (count > 0 || s.cached > 0) counts.set(s.id, count)
      }
    }
    return counts
  }

  #editCache(edits: readonly CacheEdit[], order: readonly number[]): void {
    const sources = new Map<number, number>()
    for (const edit of edits) for (const [id, source] of edit.reorder ?? []) sources.set(id, source)
    if ([...sources].some(([id, source]) => id !== source)) {
      const rowOf = new Map(order.map((id, row) => [id, row]))
      this.#params.reorder(order.map((id) => rowOf.get(sources.get(id) ?? id)!))
    }
    for (const edit of edits) for (const [id, source] of edit.fork ?? []) this.#params.fork(source, id)
  }

  /** Forgets requests that are done; with none left, the cache is emptied at once. */
  #sweep(): void {
    this.#live = this.#live.filter((e) => !e.done)
    this.#waiting = this.#waiting.filter((e) => !e.done)
    if (!this.#occupied || this.#live.length > 0 || this.#stepping || this.#disposed) return
    this.#windows.forget()
    this.#params.reset()
    this.#occupied = false
  }
}

/** @throws OctetError `INVALID_ARGUMENT` */
function checkRequest({ tokens, maxNewTokens }: EngineRequest): void {
  for (const [argument, value] of Object.entries({ 'tokens.length': tokens.length, maxNewTokens })) checkWhole(argument, value, 'Engine.add')
}

/** @throws OctetError `INVALID_ARGUMENT` */
function checkWhole(argument: string, value: number, op = 'Engine'): void {
  if (Number.isSafeInteger(value) && value >= 1) return
  throw new OctetError('INVALID_ARGUMENT', { op, argument, expected: 'a whole number of at least 1', received: String(value) })
}

/** The step's tokens in the cache's row order. */
function packTokens(order: readonly number[], counts: ReadonlyMap<number, number>, sequences: ReadonlyMap<number, CachedSequence>): Int32Array {
  return Int32Array.from(order.flatMap((id) => {
    const s = sequences.get(id)!
    return s.ids.slice(s.cached, s.cached + counts.get(id)!)
  }))
}
