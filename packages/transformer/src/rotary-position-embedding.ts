import { OctetError } from '@octet-llm/core'
import { disposeAll, keep, scope, Tensor, type Device } from '@octet-llm/kernels'

import { fixedRopeLength, ropeFrequencies, ropeTables, type RopeFrequencies, type RopeScaling } from './rope.js'

export interface RotaryPositionEmbeddingOptions {
  readonly device: Device
  /** Rotated width: the head dimension. Even. */
  readonly dim: number
  /** Theta. Default 10000. */
  readonly base?: number
  readonly scaling?: RopeScaling
  /** Trained length; past it `dynamic` changes its frequencies (`longrope` past its original one). Default: no limit. */
  readonly maxPositionEmbeddings?: number
}

/** What the rotation kernels read: row `positions[t]` of the tables turns token t. */
export interface RopeTables {
  /** f32 [P, dim / 2] */
  readonly cos: Tensor
  /** f32 [P, dim / 2] */
  readonly sin: Tensor
  /** i32 [T] */
  readonly positions: Tensor
}

/** New tokens of one sequence: the first one's position and how many. */
export interface TokenRun {
  readonly begin: number
  readonly count: number
}

const FIRST_ROWS = 512

/**
 * The cos and sin tables of one kind of rotary embedding, float32, shared by every layer that uses it. The tables hold as
 * many positions as were needed so far (doubling), not max_position_embeddings of them.
 */
export class RotaryPositionEmbedding {
  readonly dim: number
  readonly base: number
  readonly scaling: RopeScaling
  readonly maxPositionEmbeddings: number
  /** Sequences of at most this length share one table; the angles of longer ones follow their own length. */
  readonly fixedLength: number
  readonly #device: Device
  readonly #frequencies: RopeFrequencies
  #tables: { cos: Tensor; sin: Tensor; rows: number } | undefined
  /** Shorter tables that a captured graph still reads. */
  readonly #outgrown: Tensor[] = []
  /** Of the last step with a sequence past `fixedLength`. */
  #stepTables: RopeTables | undefined

  /** @throws OctetError `INVALID_ARGUMENT` */
  constructor(options: RotaryPositionEmbeddingOptions) {
    this.#device = options.device
    this.dim = options.dim
    this.base = options.base ?? 10000
    this.scaling = options.scaling ?? { type: 'default' }
    this.maxPositionEmbeddings = options.maxPositionEmbeddings ?? Infinity
    this.fixedLength = fixedRopeLength(this.scaling, this.maxPositionEmbeddings)
    this.#frequencies = ropeFrequencies(this.dim, this.base, this.scaling, this.maxPositionEmbeddings)
  }

  /** float32 [dim / 2], for sequences of at most `fixedLength`. */
  get invFreq(): Float32Array {
    return this.#frequencies.invFreq
  }

  /** Bytes of the tables on the device. */
  get byteLength(): number {
    const step = this.#stepTables
    return (this.#tables === undefined ? 0 : 2 * this.#tables.cos.byteLength) + (step === undefined ? 0 : 2 * step.cos.byteLength + step.positions.byteLength)
  }

  /** Makes the tables hold at least `length` positions, so that later steps allocate nothing. */
  reserve(length: number): { readonly cos: Tensor; readonly sin: Tensor } {
    if (this.#tables !== undefined && !this.#tables.cos.disposed && this.#tables.rows >= length) return this.#tables
    let rows = this.#tables?.rows ?? FIRST_ROWS
    while (rows < length) rows *= 2
    const host = ropeTables(this.#frequencies, Int32Array.from({ length: rows }, (_, i) => i))
    const { cos, sin } = this.#upload(host, rows)
    this.#retire(this.#tables?.cos)
    this.#retire(this.#tables?.sin)
    this.#tables = { cos: keep(cos), sin: keep(sin), rows }
    return this.#tables
  }

  /**
   * Tables for the tokens of a step.
   * @param positions i32 [T] on the device, each token's position within its sequence
   * @param runs the same on the host, sequence by sequence
   */
  forTokens(positions: Tensor, runs: readonly TokenRun[]): RopeTables {
    const longest = runs.reduce((max, run) => Math.max(max, run.begin + run.count), 0)
    if (longest > this.fixedLength) return this.#byLength(runs)
    const { cos, sin } = this.reserve(longest)
    return { cos, sin, positions }
  }

  dispose(): void {
    disposeAll([this.#tables?.cos, this.#tables?.sin, ...this.#outgrown, ...Object.values(this.#stepTables ?? {})])
    this.#tables = undefined
    this.#outgrown.length = 0
    this.#stepTables = undefined
  }

  #retire(table: Tensor | undefined): void {
    try {
      table?.dispose()
    } catch (error) {
      if (!OctetError.is(error, 'TENSOR_IN_GRAPH')) throw error
      this.#outgrown.push(table!)
    }
  }

  /**
   * Frequencies by each sequence's own length after this step, as Hugging Face computes them for a batch of one; so a row
   * never depends on its batch-mates. One table row a token.
   */
  #byLength(runs: readonly TokenRun[]): RopeTables {
    const parts = runs.map((run) => {
      const frequencies = ropeFrequencies(this.dim, this.base, this.scaling, this.maxPositionEmbeddings, run.begin + run.count)
      return ropeTables(frequencies, Int32Array.from({ length: run.count }, (_, i) => run.begin + i))
    })
    const tokens = runs.reduce((sum, run) => sum + run.count, 0)
    const join = (key: 'cos' | 'sin') => {
      const all = new Float32Array((tokens * this.dim) / 2)
      let offset = 0
      for (const part of parts) {
        all.set(part[key], offset)
        offset += part[key].length
      }
      return all
    }
    this.#dropStepTables()
    const rows = Int32Array.from({ length: tokens }, (_, i) => i)
    const made = scope(() => ({ ...this.#upload({ cos: join('cos'), sin: join('sin') }, tokens), positions: Tensor.from(rows, { shape: [tokens], dtype: 'i32', device: this.#device }) }))
    for (const t of Object.values(made)) keep(t)
    this.#stepTables = made
    return made
  }

  /** Both or neither, of the innermost scope. */
  #upload(host: { cos: Float32Array; sin: Float32Array }, rows: number): { cos: Tensor; sin: Tensor } {
    const options = { shape: [rows, this.dim / 2], dtype: 'f32', device: this.#device } as const
    return scope(() => ({ cos: Tensor.from(host.cos, options), sin: Tensor.from(host.sin, options) }))
  }

  #dropStepTables(): void {
    const held = this.#stepTables
    if (held !== undefined) for (const t of [held.cos, held.sin, held.positions]) t.dispose()
    this.#stepTables = undefined
  }
}
