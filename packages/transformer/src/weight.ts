import { OctetError, itemSize, numel, type Shape } from '@octet-llm/core'
import { cast, disposeAll, fill, keep, randomWeights, scope, Tensor, type Device, type QuantizedTensor, type TensorDType } from '@octet-llm/kernels'

import { QuantizedStorage, type QuantizeRule, type RowRange, type WeightRun } from './quantized-storage.js'

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
  /** Stores e4m3 codes and scales instead of `dtype`; [rows, columns] only. Default: not. */
  readonly quantize?: QuantizeRule
}

/**
 * One allocation of logical rows, optionally in named segments: a fused projection is one Weight, while checkpoints
 * address its segments. The single resident copy of a parameter. A quantized weight exists in FP8 only, each segment
 * with scales of its own.
 */
export class Weight {
  readonly shape: Shape
  readonly segments: readonly WeightSegment[]
  readonly device: Device
  #dtype: TensorDType
  #rule: QuantizeRule | undefined
  #storage: QuantizedStorage | undefined
  /** Made by the first use: a model can be laid out, and compared with a checkpoint, before it takes any memory. */
  #tensor: Tensor | undefined
  #views: ReadonlyMap<string, Tensor> = new Map()

  constructor(options: WeightOptions) {
    this.shape = options.shape
    this.#dtype = options.dtype
    this.#rule = options.quantize
    this.segments = options.segments ?? []
    this.device = options.device
    const rows = this.segments.reduce((sum, s) => sum + s.rows, 0)
    if (this.segments.length > 0 && rows !== this.shape[0]) {
      throw new OctetError('SHAPE_MISMATCH', { op: 'Weight', argument: 'segments', expected: `${this.shape[0]} rows`, received: String(rows) })
    }
  }

  /** Of the stored values: e4m3 when quantized. */
  get dtype(): TensorDType {
    return this.#rule === undefined ? this.#dtype : 'e4m3'
  }

  /** How values are quantized as they come in; undefined for a plain weight. */
  get rule(): QuantizeRule | undefined {
    return this.#rule
  }

  /**
   * Chooses FP8 storage, or plain storage again, while the weight takes no memory.
   * @throws OctetError `INVALID_ARGUMENT` once it does
   */
  layOut(rule: QuantizeRule | undefined): void {
    this.#checkBare('layOut')
    this.#rule = rule
  }

  /**
   * Stores float32 where it would store a narrower dtype, while it takes no memory; FP8 storage stays.
   * @throws OctetError `INVALID_ARGUMENT` once it does
   */
  widen(): void {
    this.#checkBare('widen')
    this.#dtype = 'f32'
  }

  /**
   * All rows, row-major; undefined contents until they are filled.
   * @throws OctetError `OUT_OF_MEMORY`, `INVALID_ARGUMENT` for a quantized weight (see {@link quantized})
   */
  get tensor(): Tensor {
    if (this.#rule !== undefined) throw new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument: 'tensor', expected: 'a plain weight', received: 'an FP8 weight', hint: 'read its codes and scales with quantized()' })
    if (this.#tensor !== undefined) return this.#tensor
    const made = keep(Tensor.empty(this.shape, { dtype: this.#dtype, device: this.device }))
    this.#views = new Map(this.segments.map((s) => [s.name, keep(made.rows(...this.range(s.name)))]))
    this.#tensor = made
    return made
  }

  /** FP8 codes and scales of a quantized weight. @throws OctetError `OUT_OF_MEMORY`, `INVALID_ARGUMENT` for a plain one */
  get storage(): QuantizedStorage {
    if (this.#rule === undefined) throw new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument: 'storage', expected: 'an FP8 weight', received: `one of ${this.#dtype}` })
    this.#storage ??= new QuantizedStorage(this.device, this.shape as readonly [number, number], this.#ranges())
    return this.#storage
  }

  /** Codes and scales of a segment, or of a weight without segments. Owned by the weight. @throws OctetError as {@link storage} */
  quantized(segment?: string): QuantizedTensor {
    return this.storage.read(segment)
  }

  /** A segment, or all of a weight without segments, as `linear` takes it. */
  operand(segment?: string): Tensor | QuantizedTensor {
    return this.#rule === undefined ? this.view(segment) : this.quantized(segment)
  }

  /** What a product over all rows takes: one run, or several where the scales of segments do not join. */
  get runs(): readonly WeightRun[] {
    if (this.#rule !== undefined) return this.storage.runs
    return [{ begin: 0, end: this.shape[0]!, weight: this.tensor }]
  }

  /** Bytes on the device; of a quantized weight those of its codes, and of its scales as far as they exist. */
  get byteLength(): number {
    return this.#storage?.byteLength ?? this.size * itemSize(this.dtype)
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
    if (this.#rule === undefined) fill({ out: this.tensor, value })
    else for (const { name } of this.#ranges()) this.#stage(name, (out) => fill({ out, value }))
  }

  /**
   * Uniform values of the given standard deviation from (seed, stream, element), a stream for each segment, so that the
   * values of `q_proj` do not depend on whether it is fused.
   * @param streams one a segment, or one for a weight without segments
   */
  randomize(seed: number, std: number, streams: readonly number[]): void {
    for (const [i, { name }] of this.#ranges().entries()) {
      const write = (out: Tensor) => void randomWeights({ out, seed, std, stream: streams[i]! })
      if (this.#rule === undefined) write(this.view(name))
      else this.#stage(name, write)
    }
  }

  /**
   * Quantizes values into a segment, or into all of them when none is named.
   * @param values f32, bf16 or f16, of the segment's shape
   * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT` for a plain weight
   */
  quantizeFrom(values: Tensor, segment?: string): void {
    const { storage } = this
    scope(() => {
      // `quantize` reads no f16; float32 holds its values exactly.
      const source = values.dtype === 'f16' ? cast({ x: values, dtype: 'f32' }) : values
      if (segment !== undefined) storage.store(segment, source, this.#rule!)
      else for (const { name, begin, end } of this.#ranges()) storage.store(name, source.rows(begin, end), this.#rule!)
    })
  }

  get size(): number {
    return numel(this.shape)
  }

  dispose(): void {
    disposeAll([...this.#views.values(), this.#tensor, this.#storage])
  }

  /** Values of one segment, made in the unquantized dtype and quantized: only they exist twice. */
  #stage(segment: string | undefined, write: (out: Tensor) => void): void {
    const dtype = this.#dtype === 'bf16' ? 'bf16' : 'f32'
    scope(() => {
      const staged = Tensor.empty(this.shapeOf(segment), { dtype, device: this.device })
      write(staged)
      this.storage.store(segment, staged, this.#rule!)
    })
  }

  #ranges(): RowRange[] {
    if (this.segments.length === 0) return [{ name: undefined, begin: 0, end: this.shape[0]! }]
    return this.segments.map(({ name }) => ({ name, begin: this.range(name)[0], end: this.range(name)[1] }))
  }

  #checkBare(argument: string): void {
    if (this.#tensor === undefined && this.#storage === undefined) return
    throw new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument, expected: 'a weight without storage', received: `one of ${this.byteLength} bytes` })
  }

  #unknown(segment: string): OctetError {
    const expected = this.segments.map((s) => s.name).join(', ') || 'no segment'
    return new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument: 'segment', expected, received: segment })
  }
}
