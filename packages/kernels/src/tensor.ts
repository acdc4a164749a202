import { OctetError, checkShape, formatShape, isFloat, itemSize, numel, type Shape } from '@octet-llm/core'
import type { Device } from './device.js'
import { DTYPE_CODES, checkTensorDType, type TensorDType } from './dtype-codes.js'
import { enqueue, queueFor } from './enqueue.js'
import type { Queue } from './queue.js'
import { enterScope, leaveScope, type Scoped } from './scope.js'
import { Storage } from './storage.js'
import { encodeNumbers, type TensorData } from './tensor-data.js'

/** How the elements lie in memory. Packed layouts join here; saving and optimizers always see logical rows. */
export type Layout = 'rowMajor'

const MAX_DIMS = 5

export interface TensorOptions {
  readonly dtype: TensorDType
  readonly device: Device
  /** Queue in whose order the memory is reused. Default: the device's own. */
  readonly queue?: Queue
}

export interface TensorFromOptions extends TensorOptions {
  /** Default: one axis with all elements. */
  readonly shape?: Shape
}

/**
 * An opaque handle to memory of a device: dtype, shape, row stride. Values are read with `await`. Free it with
 * `dispose()`, `using`, or a {@link scope}; views share memory and each is freed on its own.
 */
export class Tensor implements Scoped {
  readonly dtype: TensorDType
  readonly shape: Shape
  /** Elements from one row (index of all axes but the last) to the next; the last axis is contiguous. */
  readonly rowStride: number
  readonly layout: Layout = 'rowMajor'
  /** @internal */
  readonly storage: Storage
  readonly #offset: number
  #disposed = false

  private constructor(storage: Storage, offset: number, dtype: TensorDType, shape: Shape, rowStride: number, scoped = true) {
    this.storage = storage
    this.#offset = offset
    this.dtype = dtype
    this.shape = Object.freeze([...shape])
    this.rowStride = rowStride
    storage.retain()
    if (scoped) enterScope(this)
  }

  /**
   * A tensor with undefined contents.
   * @throws OctetError `INVALID_ARGUMENT` (shape), `DTYPE_MISMATCH`, `OUT_OF_MEMORY`, `DISPOSED`.
   */
  static empty(shape: Shape, options: TensorOptions): Tensor {
    const { dtype, device } = options
    device.check('empty')
    checkShape(shape, 'empty', 'shape')
    checkTensorDType(dtype, 'empty')
    if (shape.length > MAX_DIMS) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'empty', argument: 'shape', expected: `at most ${MAX_DIMS} axes`, received: formatShape(shape) })
    }
    const home = options.queue ?? device.capturing?.queue ?? device.queue
    home.check('empty')
    if (home.device !== device) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'empty', argument: 'queue', expected: 'a queue of `device`', received: 'a queue of another device' })
    }
    const storage = new Storage(numel(shape) * itemSize(dtype), home, device.capturing)
    return new Tensor(storage, 0, dtype, shape, lastAxis(shape))
  }

  /** A tensor of zeros. Throws as {@link Tensor.empty}. */
  static zeros(shape: Shape, options: TensorOptions): Tensor {
    const out = Tensor.empty(shape, options)
    if (numel(shape) > 0) enqueue(queueFor('zeros', out, options.queue), 'fill', [out], [0])
    return out
  }

  /**
   * A tensor with the numbers of `data` converted to `dtype` (round to nearest even; FP8 saturates; integers must fit).
   * @throws OctetError `SHAPE_MISMATCH` when `shape` does not hold `data.length` elements; `INVALID_ARGUMENT`;
   * `CAPTURE_READ` inside capture; else as {@link Tensor.empty}.
   */
  static from(data: TensorData, options: TensorFromOptions): Tensor {
    checkTensorDType(options.dtype, 'from')
    const shape = options.shape ?? [data.length]
    checkShape(shape, 'from', 'shape')
    checkCount(data.length, shape, 'from', 'data')
    return Tensor.#upload(encodeNumbers(data, options.dtype, 'from'), shape, options, 'from')
  }

  /** A tensor with these raw little-endian bytes of `dtype`. Throws as {@link Tensor.from}. */
  static fromBytes(bytes: Uint8Array, options: TensorFromOptions): Tensor {
    checkTensorDType(options.dtype, 'fromBytes')
    const item = itemSize(options.dtype)
    const shape = options.shape ?? [Math.floor(bytes.byteLength / item)]
    checkShape(shape, 'fromBytes', 'shape')
    if (bytes.byteLength !== numel(shape) * item) {
      throw new OctetError('SHAPE_MISMATCH', { op: 'fromBytes', argument: 'bytes', expected: `${numel(shape) * item} bytes for ${formatShape(shape)} ${options.dtype}`, received: `${bytes.byteLength} bytes` })
    }
    return Tensor.#upload(bytes, shape, options, 'fromBytes')
  }

  static #upload(bytes: Uint8Array, shape: Shape, options: TensorOptions, op: string): Tensor {
    options.device.check(op)
    options.device.queue.checkReadable(op)
    const out = Tensor.empty(shape, options)
    out.#copyIn(bytes, op)
    return out
  }

  get device(): Device {
    return this.storage.device
  }

  get disposed(): boolean {
    return this.#disposed || this.storage.freed
  }

  /** Bytes of the elements, without gaps between rows. */
  get byteLength(): number {
    return numel(this.shape) * itemSize(this.dtype)
  }

  /** Whether rows follow each other without gaps. */
  get isContiguous(): boolean {
    return this.rowStride === lastAxis(this.shape) || this.#rows <= 1
  }

  /**
   * The same memory under another shape with as many elements.
   * @throws OctetError `SHAPE_MISMATCH`; `INVALID_ARGUMENT` when there are gaps between rows; `DISPOSED`.
   */
  view(shape: Shape): Tensor {
    this.check('view')
    checkShape(shape, 'view', 'shape')
    checkCount(numel(this.shape), shape, 'view', 'shape')
    if (shape.length > MAX_DIMS || !this.isContiguous) {
      throw new OctetError('INVALID_ARGUMENT', {
        op: 'view',
        argument: shape.length > MAX_DIMS ? 'shape' : 'tensor',
        expected: shape.length > MAX_DIMS ? `at most ${MAX_DIMS} axes` : 'contiguous rows',
        received: shape.length > MAX_DIMS ? formatShape(shape) : `a row stride of ${this.rowStride} for rows of ${lastAxis(this.shape)}`,
        ...(this.isContiguous ? {} : { hint: 'copy() it first' }),
      })
    }
    return new Tensor(this.storage, this.#offset, this.dtype, shape, lastAxis(shape))
  }

  /**
   * Elements [begin, end) of the first axis, in the same memory.
   * @throws OctetError `INVALID_ARGUMENT` for a range outside the axis or a scalar; `DISPOSED`.
   */
  rows(begin: number, end: number): Tensor {
    this.check('rows')
    const first = checkRange(begin, end, this.shape[0], 'rows')
    const shape = [end - begin, ...this.shape.slice(1)]
    const step = this.shape.length === 1 ? 1 : (this.#rows / Math.max(first, 1)) * this.rowStride
    const rowStride = this.shape.length === 1 ? end - begin : this.rowStride
    return new Tensor(this.storage, this.#offset + begin * step * itemSize(this.dtype), this.dtype, shape, rowStride)
  }

  /**
   * Elements [begin, end) of the last axis, in the same memory; the row stride stays.
   * @throws OctetError `INVALID_ARGUMENT` for a range outside the axis or a scalar; `DISPOSED`.
   */
  columns(begin: number, end: number): Tensor {
    this.check('columns')
    checkRange(begin, end, this.shape.at(-1), 'columns')
    const shape = [...this.shape.slice(0, -1), end - begin]
    const rowStride = this.shape.length === 1 ? end - begin : this.rowStride
    return new Tensor(this.storage, this.#offset + begin * itemSize(this.dtype), this.dtype, shape, rowStride)
  }

  /**
   * Overwrites the tensor. `data` is converted as by {@link Tensor.from} and copied before the call returns; it lands in
   * the order of `queue` (default: the device's own).
   * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, `CAPTURE_READ`, `OUT_OF_MEMORY`, `DISPOSED`.
   */
  write(data: TensorData, queue?: Queue): void {
    this.check('write')
    checkCount(data.length, this.shape, 'write', 'data')
    this.#copyIn(encodeNumbers(data, this.dtype, 'write'), 'write', queue)
  }

  /**
   * The values as float32, in row-major order; every floating dtype is widened exactly (f64 is rounded).
   * @throws OctetError `DTYPE_MISMATCH` for integers; `CAPTURE_READ`; `DISPOSED`; and what made an earlier op fail.
   */
  async toFloat32Array(queue?: Queue): Promise<Float32Array> {
    this.check('toFloat32Array')
    if (!isFloat(this.dtype)) {
      throw new OctetError('DTYPE_MISMATCH', { op: 'toFloat32Array', argument: 'tensor', expected: 'a floating dtype', received: this.dtype, hint: 'use toInt32Array() or toBytes()' })
    }
    if (this.dtype === 'f32') return new Float32Array((await this.#copyOut('toFloat32Array', queue)).buffer)
    const chosen = this.#reader('toFloat32Array', queue)
    const wide = Tensor.empty(this.shape, { dtype: 'f32', device: this.device, queue: chosen })
    let pending: Promise<Uint8Array>
    try {
      if (numel(this.shape) > 0) enqueue(chosen, 'cast', [this, wide], [])
      pending = wide.#copyOut('toFloat32Array', chosen)
    } finally {
      wide.dispose()
    }
    return new Float32Array((await pending).buffer)
  }

  /** The values of an i32 tensor. @throws OctetError `DTYPE_MISMATCH`, `CAPTURE_READ`, `DISPOSED`, earlier failures. */
  async toInt32Array(queue?: Queue): Promise<Int32Array> {
    this.check('toInt32Array')
    if (this.dtype !== 'i32') {
      throw new OctetError('DTYPE_MISMATCH', { op: 'toInt32Array', argument: 'tensor', expected: 'i32', received: this.dtype, hint: 'use toFloat32Array() or toBytes()' })
    }
    return new Int32Array((await this.#copyOut('toInt32Array', queue)).buffer)
  }

  /** The raw little-endian bytes in row-major order. @throws OctetError `CAPTURE_READ`, `DISPOSED`, earlier failures. */
  async toBytes(queue?: Queue): Promise<Uint8Array> {
    this.check('toBytes')
    return this.#copyOut('toBytes', queue)
  }

  /**
   * Frees the handle, and the memory with its last handle: in queue order, so ops already enqueued still see it.
   * Idempotent.
   * @throws OctetError `TENSOR_IN_GRAPH` when a captured graph still needs the memory.
   */
  dispose(): void {
    if (this.#disposed) return
    this.storage.release()
    this.#disposed = true
    leaveScope(this)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  // ---- for the package ----

  /** @internal @throws OctetError `DISPOSED` */
  check(op: string, argument = 'tensor'): void {
    if (!this.disposed) return
    throw new OctetError('DISPOSED', { op, argument, expected: 'a live tensor', received: `a disposed ${this.dtype} ${formatShape(this.shape)}` })
  }

  /** @internal Writes the 9 words of a tensor argument (native/runtime/backend.h). */
  encode(scratch: Float64Array, at: number): void {
    const { shape } = this
    scratch[at] = this.storage.address + this.#offset
    scratch[at + 1] = DTYPE_CODES[this.dtype]
    scratch[at + 2] = shape.length
    for (let d = 0; d < MAX_DIMS; d++) scratch[at + 3 + d] = d < shape.length ? shape[d]! : 0
    scratch[at + 8] = this.rowStride
  }

  /** @internal First byte on the device. */
  get address(): number {
    return this.storage.address + this.#offset
  }

  /**
   * @internal `count` elements of `dtype` from a byte offset into the memory, contiguous and outside every scope: what an
   * upload holds on to while it runs.
   */
  alias(byteOffset: number, dtype: TensorDType, shape: Shape): Tensor {
    return new Tensor(this.storage, this.#offset + byteOffset, dtype, shape, lastAxis(shape), false)
  }

  /** @internal Rows [row, row + count) of the tensor seen as [*, cols], keeping its stride; outside every scope. */
  strip(row: number, count: number, cols: number): Tensor {
    const stride = this.isContiguous ? cols : this.rowStride
    return new Tensor(this.storage, this.#offset + row * stride * itemSize(this.dtype), this.dtype, [count, cols], stride, false)
  }

  /** @internal The handle ends with the graph that owns it. */
  abandon(): void {
    if (this.#disposed) return
    this.#disposed = true
    if (this.storage.owner !== null) this.storage.abandon()
    else this.storage.release()
  }

  /** Rows: the product of all axes but the last. */
  get #rows(): number {
    return numel(this.shape.slice(0, -1))
  }

  #reader(op: string, queue: Queue | undefined): Queue {
    const chosen = queueFor(op, this, queue)
    chosen.checkReadable(op)
    return chosen
  }

  #copyIn(bytes: Uint8Array, op: string, queue?: Queue): void {
    const chosen = this.#reader(op, queue)
    if (bytes.byteLength === 0) return
    this.storage.touch(chosen)
    const item = itemSize(this.dtype)
    const rowBytes = lastAxis(this.shape) * item
    const taken = this.device.runtime.native.copyIn(chosen.id, this.address, bytes.byteLength / rowBytes, rowBytes, this.rowStride * item, bytes)
    if (!taken) {
      throw new OctetError('OUT_OF_MEMORY', { op, expected: `${bytes.byteLength} bytes to hold the data until it lands`, received: 'a refusal of the system' })
    }
    chosen.count(false)
  }

  #copyOut(op: string, queue: Queue | undefined): Promise<Uint8Array> {
    const chosen = this.#reader(op, queue)
    const out = new Uint8Array(this.byteLength)
    if (out.byteLength > 0) {
      this.storage.touch(chosen)
      const item = itemSize(this.dtype)
      const rowBytes = lastAxis(this.shape) * item
      this.device.runtime.native.copyOut(chosen.id, this.address, out.byteLength / rowBytes, rowBytes, this.rowStride * item, out)
      chosen.count(false)
    }
    // The promise holds `out`, so the worker's target outlives the copy.
    return chosen.mark().then(() => out)
  }
}

function lastAxis(shape: Shape): number {
  return shape.length === 0 ? 1 : shape.at(-1)!
}

function checkCount(count: number, shape: Shape, op: string, argument: string): void {
  if (count === numel(shape)) return
  throw new OctetError('SHAPE_MISMATCH', { op, argument, expected: `${numel(shape)} elements for ${formatShape(shape)}`, received: `${count}` })
}

function checkRange(begin: number, end: number, length: number | undefined, op: string): number {
  const ok = length !== undefined && Number.isSafeInteger(begin) && Number.isSafeInteger(end) && begin >= 0 && begin <= end && end <= length
  if (ok) return length
  throw new OctetError('INVALID_ARGUMENT', {
    op,
    argument: 'begin, end',
    expected: length === undefined ? 'a tensor with at least one axis' : `0 <= begin <= end <= ${length}`,
    received: length === undefined ? 'a scalar' : `${begin}, ${end}`,
  })
}
