import { advanceDecode, argmax, Construction, sample, Tensor, type Device, type Graph } from '@octet-llm/kernels'
import type { DecodeRows, InferenceParams } from '@octet-llm/kv-cache'
import { Workspace, type CausalLM } from '@octet-llm/transformer'
import type { DeviceSelection } from './task.js'

/** Most ids that end a row on the device; a request with more is checked on the host. */
export const MAX_DEVICE_EOS = 16

/** Recordings of token choice that are kept; a new seed or temperature needs one. */
const SELECTIONS_KEPT = 32

/** Rows of a decode step: a batch runs in the smallest power of two that holds it. */
export function bucketOf(rows: number): number {
  return 2 ** Math.ceil(Math.log2(rows))
}

/** A row at the beginning of a window. */
export interface DecodeRow {
  /** Its newest token, which the cache does not hold yet. */
  readonly token: number
  /** New tokens it may still have, ≥ 1. */
  readonly remaining: number
  readonly eosTokenIds: readonly number[]
  readonly selection: DeviceSelection
  /** Number of the sequence, for its draws. */
  readonly sequence: number
}

interface Selecting {
  readonly key: string
  readonly group: number
  readonly graph: Graph<void>
}

/**
 * The decode step as recordings: one of the model for each bucket, and one for each bucket and way to choose tokens. A
 * step is two replays; nothing of it depends on the host, so that many are enqueued at once. Between them everything
 * stays on the device: tokens, lengths, positions, and which rows have stopped.
 */
export class DecodeGraphs {
  readonly #model: CausalLM
  readonly #params: InferenceParams
  readonly #capacity: number
  readonly #device: Device
  /** Next inputs, tokens left, groups, sequence numbers: i32 [4 * capacity]. */
  readonly #state: Tensor
  readonly #eos: Tensor
  readonly #chosen: Tensor
  readonly #out: Tensor
  readonly #hostState: Int32Array
  readonly #views = new Map<number, RowViews>()
  readonly #models = new Map<number, Graph<Tensor>>()
  readonly #selections = new Map<string, Selecting>()
  #groups = 0
  #disposed = false

  constructor(model: CausalLM, params: InferenceParams) {
    using construction = new Construction()
    const device = model.device
    const capacity = bucketOf(params.maxBatchSize)
    this.#model = model
    this.#params = params
    this.#capacity = capacity
    this.#device = device
    this.#state = Tensor.zeros([4 * capacity], { dtype: 'i32', device })
    this.#eos = Tensor.zeros([capacity, MAX_DEVICE_EOS], { dtype: 'i32', device })
    this.#chosen = Tensor.zeros([capacity], { dtype: 'i32', device })
    this.#out = Tensor.zeros([capacity], { dtype: 'i32', device })
    this.#hostState = new Int32Array(4 * capacity)
    construction.complete()
  }

  /** Whether the model's step of that many rows has been recorded. */
  has(rows: number): boolean {
    return this.#models.has(bucketOf(rows))
  }

  /** Recordings alive. */
  get size(): number {
    return this.#models.size + this.#selections.size
  }

  /**
   * Uploads the state before the first step of an open window of the cache, `decode`, whose rows are `rows`.
   * @returns enqueues one step, and gives the rows' new tokens, -1 where a row had stopped before it
   */
  start(rows: readonly DecodeRow[], decode: DecodeRows): () => Promise<Int32Array> {
    const selecting = [...new Set(rows.map((row) => keyOf(row.selection)))]
    const groups = this.#groupsOf(rows, selecting, decode)
    this.#upload(rows, decode.width, (row) => groups.get(keyOf(row.selection))!.group)
    const { out } = this.#viewsOf(decode.width)
    const model = this.#modelGraph(decode)
    return () => {
      model.replay()
      for (const { graph } of groups.values()) graph.replay()
      const read = out.toInt32Array()
      // Whoever leaves a window early never looks at the reads that are left.
      read.catch(() => undefined)
      return read
    }
  }

  /** One step of the model alone, for rows whose tokens the host chooses: f32 [width, V], valid until the next call. */
  logits(tokens: readonly number[], decode: DecodeRows): Tensor {
    this.#hostState.fill(0)
    this.#hostState.set(tokens)
    this.#state.write(this.#hostState)
    const model = this.#modelGraph(decode)
    model.replay()
    return model.value
  }

  /** Frees every recording; work in flight ends first. Before the cache is disposed. Idempotent. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    for (const { graph } of this.#selections.values()) void graph.dispose()
    for (const graph of this.#models.values()) void graph.dispose()
    for (const views of this.#views.values()) for (const t of Object.values(views) as Tensor[]) t.dispose()
    for (const t of [this.#state, this.#eos, this.#chosen, this.#out]) t.dispose()
  }

  #modelGraph(decode: DecodeRows): Graph<Tensor> {
    const held = this.#models.get(decode.width)
    if (held !== undefined) return held
    const { tokens } = this.#viewsOf(decode.width)
    // Buffers of its own: those of the model change with every prefill.
    const workspace = new Workspace(this.#device)
    const graph = this.#device.queue.capture(() => this.#model.step(tokens, this.#params, { logits: 'last', workspace }))
    this.#models.set(decode.width, graph)
    return graph
  }

  #groupsOf(rows: readonly DecodeRow[], keys: readonly string[], decode: DecodeRows): Map<string, Selecting> {
    const found = new Map<string, Selecting>()
    for (const key of keys) {
      const place = `${decode.width} ${key}`
      const held = this.#selections.get(place) ?? this.#record(rows.find((row) => keyOf(row.selection) === key)!.selection, key, decode)
      // Newest last: the first of the map is the one to forget.
      this.#selections.delete(place)
      this.#selections.set(place, held)
      found.set(key, held)
    }
    for (const [place, { graph }] of this.#selections) {
      if (this.#selections.size <= SELECTIONS_KEPT) break
      this.#selections.delete(place)
      void graph.dispose()
    }
    return found
  }

  #record(selection: DeviceSelection, key: string, decode: DecodeRows): Selecting {
    const group = this.#groups++
    const logits = this.#modelGraph(decode).value
    const { tokens, remaining, groups, sequences, eos, chosen, out } = this.#viewsOf(decode.width)
    const { kvLens, starts, positions } = decode
    const graph = this.#device.queue.capture(() => {
      if (selection.kind === 'argmax') argmax({ x: logits, out: chosen })
      else {
        const { temperature, topK, topP, minP } = selection.sampling
        // A draw is named by the tokens that stand before it: those in the cache, this step's included.
        sample({ logits, out: chosen, sequenceIds: sequences, positions: kvLens, seed: selection.seed, temperature, topK, topP, minP })
      }
      advanceDecode({ chosen, groups, eos, remaining, tokens, kvLens, starts, positions, out, group })
    })
    return { key, group, graph }
  }

  #upload(rows: readonly DecodeRow[], width: number, groupOf: (row: DecodeRow) => number): void {
    const n = this.#capacity
    const state = this.#hostState.fill(0)
    const eos = new Int32Array(width * MAX_DEVICE_EOS).fill(-1)
    // Idle rows belong to some group too, whose op then says -1 for them.
    const idle = groupOf(rows[0]!)
    for (let i = 0; i < width; i++) {
      const row = rows[i]
      state[2 * n + i] = row === undefined ? idle : groupOf(row)
      if (row === undefined) continue
      state[i] = row.token
      state[n + i] = row.remaining
      state[3 * n + i] = row.sequence
      eos.set(row.eosTokenIds, i * MAX_DEVICE_EOS)
    }
    this.#state.write(state)
    this.#viewsOf(width).eos.write(eos)
  }

  #viewsOf(width: number): RowViews {
    const held = this.#views.get(width)
    if (held !== undefined) return held
    const part = (k: number) => this.#state.rows(k * this.#capacity, k * this.#capacity + width)
    const made: RowViews = {
      tokens: part(0), remaining: part(1), groups: part(2), sequences: part(3),
      eos: this.#eos.rows(0, width), chosen: this.#chosen.rows(0, width), out: this.#out.rows(0, width),
    }
    this.#views.set(width, made)
    return made
  }
}

interface RowViews {
  readonly tokens: Tensor
  readonly remaining: Tensor
  readonly groups: Tensor
  readonly sequences: Tensor
  readonly eos: Tensor
  readonly chosen: Tensor
  readonly out: Tensor
}

function keyOf(selection: DeviceSelection): string {
  return JSON.stringify(selection)
}
