import { OctetError, itemSize, numel, type Shape } from '@octet-llm/core'
import { fill, keep, randomWeights, Tensor, type Device, type TensorDType } from '@octet-llm/kernels'

export interface WeightSegment {
  readonly name: string
  /** Logical rows of the weight. */
  readonly rows: number
}

export interface WeightOptions {
  readonly device: Device
  readonly dtype: TensorDType
  /** [rows, columns], or [n] for gammas and biases. */
  readonly shape: Shape
  /** Row ranges with a name, in order, which add up to all rows (Q|K|V, gate|up). Default: none. */
  readonly segments?: readonly WeightSegment[]
}

/**
 * One allocation of logical rows, optionally in named segments: a fused projection is one Weight, while checkpoints
 * address its segments. The single resident copy of a parameter.
 */
export class Weight {
  readonly shape: Shape
  readonly dtype: TensorDType
  readonly segments: readonly WeightSegment[]
  readonly #device: Device
  /** Made by the first use: a model can be laid out, and compared with a checkpoint, before it takes any memory. */
  #tensor: Tensor | undefined
  #views: ReadonlyMap<string, Tensor> = new Map()

  constructor(options: WeightOptions) {
    this.shape = options.shape
    this.dtype = options.dtype
    this.segments = options.segments ?? []
    this.#device = options.device
    const rows = this.segments.reduce((sum, s) => sum + s.rows, 0)
    if (this.segments.length > 0 && rows !== this.shape[0]) {
      throw new OctetError('SHAPE_MISMATCH', { op: 'Weight', argument: 'segments', expected: `${this.shape[0]} rows`, received: String(rows) })
    }
  }

  /** All rows, row-major; undefined contents until they are filled. @throws OctetError `OUT_OF_MEMORY` */
  get tensor(): Tensor {
    if (this.#tensor !== undefined) return this.#tensor
    const made = keep(Tensor.empty(this.shape, { dtype: this.dtype, device: this.#device }))
    this.#views = new Map(this.segments.map((s) => [s.name, keep(made.rows(...this.range(s.name)))]))
    this.#tensor = made
    return made
  }

  get byteLength(): number {
    return this.size * itemSize(this.dtype)
  }

  /** Shape of a segment, or of the whole weight. @throws OctetError `INVALID_ARGUMENT` for an unknown name */
  shapeOf(segment?: string): Shape {
    if (segment === undefined) return this.shape
    const [begin, end] = this.range(segment)
    return [end - begin, ...this.shape.slice(1)]
  }

  /** Rows [begin, end) of a segment. @throws OctetError `INVALID_ARGUMENT` for an unknown name. */
  range(segment: string): readonly [begin: number, end: number] {
    let begin = 0
    for (const s of this.segments) {
      if (s.name === segment) return [begin, begin + s.rows]
      begin += s.rows
    }
    throw this.#unknown(segment)
  }

  /**
   * The rows of one segment, sharing storage; the whole weight without a name. Owned by the weight.
   * @throws OctetError `INVALID_ARGUMENT` for an unknown name
   */
  view(segment?: string): Tensor {
    const whole = this.tensor
    if (segment === undefined) return whole
    const view = this.#views.get(segment)
    if (view === undefined) throw this.#unknown(segment)
    return view
  }

  /** Every element becomes `value`. */
  fill(value: number): void {
    fill({ out: this.tensor, value })
  }

  /**
   * Uniform values of the given standard deviation from (seed, stream, element), a stream for each segment, so that the
   * values of `q_proj` do not depend on whether it is fused.
   * @param streams one a segment, or one for a weight without segments
   */
  randomize(seed: number, std: number, streams: readonly number[]): void {
    const names = this.segments.length === 0 ? [undefined] : this.segments.map((s) => s.name)
    for (const [i, name] of names.entries()) randomWeights({ out: this.view(name), seed, std, stream: streams[i]! })
  }

  get size(): number {
    return numel(this.shape)
  }

  dispose(): void {
    for (const t of this.#views.values()) t.dispose()
    this.#tensor?.dispose()
  }

  #unknown(segment: string): OctetError {
    const expected = this.segments.map((s) => s.name).join(', ') || 'no segment'
    return new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument: 'segment', expected, received: segment })
  }
}
