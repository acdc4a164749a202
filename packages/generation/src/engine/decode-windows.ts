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
  readonly reads: readonly Promise<Int32Array>[]
  next: number
  readonly used: Map<number, number>
}

/**
 * Decoding by captured steps. Where every row decodes one token a step, a window of steps is enqueued at once and its
 * tokens are taken one step at a time as they arrive; requests come and go between windows.
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

  /** One token of each row, from the open window or a new one. False: these requests need a step of another kind. */
  async step(live: readonly Owner[]): Promise<boolean> {
    if (this.#window === null && !(await this.#begin(live))) return false
    if (this.#window !== null) await this.#take(this.#window)
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
    const decode = this.#params.beginDecode(new Map(rows.map(({ sequence, decoding }) => [sequence.id, Math.min(steps, decoding.remaining)])), bucketOf(rows.length))
    const ordered = this.#params.order.map((id) => byId.get(Number(id))!)
    const reads = graphs.run(ordered.map(decodeRow), decode, steps)
    this.#window = { rows: ordered, reads, next: 0, used: new Map() }
  }

  async #take(window: OpenWindow<Owner>): Promise<void> {
    const tokens = await window.reads[window.next++]!
    let live = false
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
      live ||= !owner.done
    }
    if ((live && window.next < window.reads.length) || this.#window !== window) return
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
    const endsEarly = rows.some(({ decoding }) => decoding.eosTokenIds.length > 0)
    const wanted = this.#stepsPerSync ?? (this.#model.device.kind === 'cpu' && endsEarly ? CPU_STEPS_WITH_EOS : DEFAULT_STEPS_PER_SYNC)
    return Math.min(wanted, Math.max(...rows.map(({ decoding }) => decoding.remaining)))
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
