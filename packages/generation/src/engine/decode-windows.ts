import type { InferenceParams } from '@octet-llm/kv-cache'
import type { CausalLM } from '@octet-llm/transformer'
import { bucketOf, DecodeGraphs, MAX_DEVICE_EOS, type DecodeRow } from './decode-graphs.js'
import type { DeviceOps } from './device-ops.js'
import { selectTokens, type ReadyTask } from './select.js'
import type { CacheEdit, CachedSequence, Decoding, Task } from './task.js'

/** Decode steps that are enqueued at once where nothing needs the host. */
export const DEFAULT_STEPS_PER_SYNC = 8

/** Steps at once on a CPU where a row may end at an EOS id: a step past the end of all rows costs as much as any. */
const CPU_STEPS_WITH_EOS = 2

/** Steps that a window reserves pages for: as it goes on, each step that arrives is followed by another enqueued one. */
const WINDOW_STEPS = 64

/** Ways to choose a token that one window serves; each costs an op a step. */
const MAX_SELECTIONS = 4

/** Tokens that a recording must be good for before it is made. */
const WORTH_RECORDING = 4

/** A request as the windows see it. */
export interface DecodingOwner {
  readonly task: Task
  readonly prefilled: boolean
  readonly done: boolean
  fail(error: unknown): void
}

/** A row of an open window. */
interface WindowRow<Owner> {
  readonly owner: Owner
  readonly sequence: CachedSequence
  readonly decoding: Decoding
}

interface OpenWindow<Owner> {
  readonly rows: readonly WindowRow<Owner>[]
  readonly width: number
  readonly enqueue: () => Promise<Int32Array>
  /** Steps that are enqueued and not taken yet, oldest first. */
  readonly reads: Promise<Int32Array>[]
  /** Steps that pages are reserved for beyond the enqueued ones. */
  left: number
  readonly used: Map<number, number>
}

/**
 * Decoding by captured steps. Where every row decodes one token a step, a window of steps is enqueued at once and its
 * tokens are taken one step at a time as they arrive. While nobody waits, the window goes on with a new step for each one
 * taken, so that the device never waits for the host; requests come and go between windows.
 */
export class DecodeWindows<Owner extends DecodingOwner> {
  readonly #model: CausalLM
  readonly #params: InferenceParams
  readonly #ops: DeviceOps
  readonly #stepsPerSync: number | undefined
  readonly #maxSequenceLength: number
  #graphs: DecodeGraphs | undefined
  #capturable: boolean | undefined
  #window: OpenWindow<Owner> | null = null

  constructor(model: CausalLM, params: InferenceParams, ops: DeviceOps, options: { readonly stepsPerSync?: number | undefined; readonly maxSequenceLength: number; readonly graphs: boolean }) {
    this.#model = model
    this.#params = params
    this.#ops = ops
    this.#stepsPerSync = options.stepsPerSync
    this.#maxSequenceLength = options.maxSequenceLength
    if (!options.graphs) this.#capturable = false
  }

  /** Whether steps of a window are still to be taken. */
  get open(): boolean {
    return this.#window !== null
  }

  /**
   * One token of each row, from the open window or a new one. False: these requests need a step of another kind.
   * @param awaited whether other requests wait for the window to end
   */
  async step(live: readonly Owner[], awaited: boolean): Promise<boolean> {
    if (this.#window === null && !(await this.#begin(live))) return false
    if (this.#window !== null) await this.#take(this.#window, awaited)
    return true
  }

  /** Forgets the open window; with the cache emptied or disposed, nobody waits for its steps. */
  forget(): void {
    this.#window = null
  }

  dispose(): void {
    this.#window = null
    this.#graphs?.dispose()
  }

  /** Launches a window, or runs the one step that the host has a part in. */
  async #begin(live: readonly Owner[]): Promise<boolean> {
    const rows = this.#rowsOf(live)
    if (rows === null) return false
    this.#graphs ??= new DecodeGraphs(this.#model, this.#params)
    const steps = this.#stepsFor(rows)
    if (steps === 0) await this.#hostStep(this.#graphs, rows)
    else this.#launch(this.#graphs, rows, steps)
    return true
  }

  #launch(graphs: DecodeGraphs, rows: readonly WindowRow<Owner>[], steps: number): void {
    const byId = new Map(rows.map((row) => [row.sequence.id, row]))
    const longest = Math.max(...rows.map(({ decoding }) => decoding.remaining))
    const reserved = this.#goesOn(rows) ? Math.max(steps, Math.min(WINDOW_STEPS, longest)) : steps
    const width = bucketOf(rows.length)
    const decode = this.#params.beginDecode(new Map(rows.map(({ sequence, decoding }) => [sequence.id, Math.min(reserved, decoding.remaining)])), width)
    const ordered = this.#params.order.map((id) => byId.get(Number(id))!)
    const enqueue = graphs.start(ordered.map(decodeRow), decode)
    this.#window = { rows: ordered, width, enqueue, reads: Array.from({ length: steps }, enqueue), left: reserved - steps, used: new Map() }
  }

  async #take(window: OpenWindow<Owner>, awaited: boolean): Promise<void> {
    const tokens = await window.reads.shift()!
    let live = 0
    for (const [i, { owner, sequence }] of window.rows.entries()) {
      const token = tokens[i]!
      if (token < 0 || owner.done) continue
      sequence.cached += 1
      window.used.set(sequence.id, (window.used.get(sequence.id) ?? 0) + 1)
      try {
        await owner.task.acceptToken(token)
      } catch (error) {
        owner.fail(error)
      }
      if (!owner.done) live++
    }
    if (this.#window !== window) return
    // Once half the rows have ended, a window of fewer rows costs less.
    if (window.left > 0 && !awaited && live > 0 && bucketOf(live) === window.width) {
      window.reads.push(window.enqueue())
      window.left -= 1
    }
    if (live > 0 && window.reads.length > 0) return
    this.#params.endDecode(window.used)
    this.#window = null
  }

  /** The model's step from a recording, the choice as in any other step. */
  async #hostStep(graphs: DecodeGraphs, rows: readonly WindowRow<Owner>[]): Promise<void> {
    const byId = new Map(rows.map((row) => [row.sequence.id, row]))
    const decode = this.#params.beginDecode(new Map(rows.map(({ sequence }) => [sequence.id, 1])), bucketOf(rows.length))
    const ordered = this.#params.order.map((id) => byId.get(Number(id))!)
    const logits = graphs.logits(ordered.map(({ sequence }) => sequence.ids[sequence.cached]!), decode)
    for (const { sequence } of ordered) sequence.cached += 1
    const ready = ordered.map(({ owner }, row): ReadyTask<Owner> => ({ owner, task: owner.task, rows: [row] }))
    const selected = await selectTokens(this.#ops, logits, ready)
    this.#params.endDecode(new Map(ordered.map(({ sequence }) => [sequence.id, 1])))
    for (const { owner, accept } of selected) await acceptOf(owner, accept)
  }

  /** The rows of a window over these requests, or null where one of them cannot be in it. */
  #rowsOf(live: readonly Owner[]): WindowRow<Owner>[] | null {
    if (this.#capturable === false || live.length === 0) return null
    const rows: WindowRow<Owner>[] = []
    for (const owner of live) {
      const { decoding, sequences } = owner.task
      const sequence = sequences[0]
      if (decoding === null || sequence === undefined || !owner.prefilled || sequence.cached !== sequence.ids.length - 1) return null
      rows.push({ owner, sequence, decoding })
    }
    const most = Math.max(...rows.map(({ decoding }) => decoding.remaining))
    if (most < WORTH_RECORDING && this.#graphs?.has(rows.length) !== true) return null
    this.#capturable ??= this.#model.prepareCapture?.(this.#maxSequenceLength) === true
    return this.#capturable ? rows : null
  }

  /** Steps of the next window; 0 where the host has a part in each. */
  #stepsFor(rows: readonly WindowRow<Owner>[]): number {
    const hosted = rows.some(({ decoding }) => decoding.needsHost || decoding.selection === null || decoding.eosTokenIds.length > MAX_DEVICE_EOS)
    if (hosted || new Set(rows.map(({ decoding }) => JSON.stringify(decoding.selection))).size > MAX_SELECTIONS) return 0
    const wanted = this.#stepsPerSync ?? (this.#goesOn(rows) ? DEFAULT_STEPS_PER_SYNC : CPU_STEPS_WITH_EOS)
    return Math.min(wanted, Math.max(...rows.map(({ decoding }) => decoding.remaining)))
  }

  /** Whether steps behind the one at hand may be enqueued freely. */
  #goesOn(rows: readonly WindowRow<Owner>[]): boolean {
    return this.#model.device.kind !== 'cpu' || rows.every(({ decoding }) => decoding.eosTokenIds.length === 0)
  }
}

function decodeRow({ sequence, decoding }: WindowRow<DecodingOwner>): DecodeRow {
  return {
    token: sequence.ids[sequence.cached]!,
    remaining: decoding.remaining,
    eosTokenIds: decoding.eosTokenIds,
    selection: decoding.selection!,
    sequence: decoding.sequence,
  }
}

async function acceptOf(owner: DecodingOwner, accept: () => Promise<CacheEdit>): Promise<void> {
  if (owner.done) return
  try {
    await accept()
  } catch (error) {
    owner.fail(error)
  }
}
