import { open, type FileHandle } from 'node:fs/promises'
import { OctetError, formatShape, itemSize, numel, sameShape, type TensorSource } from '@octet-llm/core'
import { isTensorDType, type TensorDType } from './dtype-codes.js'
import { enqueue } from './enqueue.js'
import { CAST_FROM, CAST_TO } from './ops/cast.js'
import type { Queue } from './queue.js'
import { Tensor } from './tensor.js'

export interface UploadOptions {
  /** Aborts between pieces; the promise rejects with `signal.reason` and the target's contents are undefined. */
  readonly signal?: AbortSignal
}

/** Bytes of one read that goes straight to its target, and of one that is converted on the way. */
const DIRECT_PIECE = 64 << 20
const STAGED_PIECE = 8 << 20
/** Reads that may be under way at once: the next is enqueued while one runs. */
const IN_FLIGHT = 2
const MAX_STRIDED_DIMS = 8

/**
 * Reads a tensor of a checkpoint file into `target`: positioned native reads on the device's load queue, in parallel,
 * straight into the tensor's memory where dtype and layout allow it. Sources with strides are repacked, other dtypes
 * converted as by `cast`. The event loop stays free. Await it before the target is used.
 *
 * @param source bytes in a file; its shape must be the target's
 * @param target any row stride
 * @throws OctetError `SHAPE_MISMATCH`; `DTYPE_MISMATCH` when no cast leads to the target's dtype; `FILE_NOT_FOUND`;
 * `FILE_CHANGED` when the file is shorter than the source says; `INVALID_ARGUMENT` when `byteLength` does not fit shape,
 * dtype and strides; `OUT_OF_MEMORY`; `CAPTURE_READ`; `DISPOSED`. An abort throws the signal's reason unchanged.
 */
export async function upload(source: TensorSource, target: Tensor, options: UploadOptions = {}): Promise<void> {
  const dtype = check(source, target)
  options.signal?.throwIfAborted()
  const { device } = target
  const queue = device.loadQueue
  queue.checkReadable('upload')
  if (numel(source.shape) === 0) return
  // Holds the memory even if the caller disposes the target meanwhile.
  const hold = target.alias(0, target.dtype, [1])
  const job = new Job(source, dtype, queue, options.signal)
  let file: FileHandle | undefined
  try {
    file = await open(source.path, 'r').catch((error: unknown) => {
      throw new OctetError('FILE_NOT_FOUND', { op: 'upload', argument: source.path, expected: 'a readable file', received: error instanceof Error ? error.message : String(error), cause: error })
    })
    const { size } = await file.stat()
    if (size < source.offset + source.byteLength) throw shortFile(source)
    queue.check('upload')
    // Memory is reused in the order of its home queue: read only once that order has come to this tensor.
    queue.order(target.storage.home.disposed ? device.queue.point() : target.storage.home.point())
    const strides = stridesOf(source)
    if (strides !== undefined) await job.repack(file.fd, target, strides)
    else if (dtype === target.dtype && target.isContiguous) await job.read(file.fd, source.offset, target, target.byteLength)
    else await job.convert(file.fd, target)
    await job.finish()
  } finally {
    await job.settle()
    await file?.close()
    if (!hold.disposed) hold.dispose()
  }
}

/** @returns the source's dtype, known to lead to the target's. */
function check(source: TensorSource, target: Tensor): TensorDType {
  target.check('upload', 'target')
  if (!sameShape(source.shape, target.shape)) {
    throw new OctetError('SHAPE_MISMATCH', { op: 'upload', argument: source.name, expected: formatShape(target.shape), received: formatShape(source.shape) })
  }
  const { dtype } = source
  const castable = isTensorDType(dtype) && (dtype === target.dtype || (CAST_FROM.includes(dtype) && CAST_TO.includes(target.dtype)))
  if (!castable) {
    throw new OctetError('DTYPE_MISMATCH', { op: 'upload', argument: source.name, expected: `${target.dtype} or a dtype that casts to it`, received: dtype })
  }
  const item = itemSize(dtype)
  const strides = stridesOf(source)
  const elements = strides === undefined ? numel(source.shape) : span(source.shape, strides)
  const fits = source.strides === undefined ? source.byteLength === elements * item : source.byteLength >= elements * item
  if (!fits) {
    throw new OctetError('INVALID_ARGUMENT', { op: 'upload', argument: `${source.name}.byteLength`, expected: `${elements * item} bytes`, received: String(source.byteLength) })
  }
  return dtype
}

/** The strides, unless they say row-major, which needs no repacking. */
function stridesOf({ shape, strides }: TensorSource): readonly number[] | undefined {
  if (strides === undefined || strides.length !== shape.length) return strides
  let step = 1
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== step) return strides
    step *= shape[d]!
  }
  return undefined
}

/** Elements from the first to the last one that strides reach. */
function span(shape: readonly number[], strides: readonly number[]): number {
  const legal = strides.length === shape.length && shape.length >= 1 && shape.length <= MAX_STRIDED_DIMS && strides.every((s) => Number.isSafeInteger(s) && s >= 0)
  if (!legal) {
    throw new OctetError('INVALID_ARGUMENT', { op: 'upload', argument: 'strides', expected: `one non-negative stride per axis, at most ${MAX_STRIDED_DIMS}`, received: formatShape(strides) })
  }
  return shape.includes(0) ? 0 : 1 + shape.reduce((sum, length, d) => sum + (length - 1) * strides[d]!, 0)
}

function shortFile(source: TensorSource): OctetError {
  return new OctetError('FILE_CHANGED', {
    op: 'upload',
    argument: source.path,
    expected: `${source.byteLength} bytes at ${source.offset} for ${source.name}`,
    received: 'a shorter file',
    hint: 'it became shorter since its header was read: download or copy it again',
  })
}

/** The reads of one upload. Each piece reports its own outcome; at most {@link IN_FLIGHT} are under way. */
class Job {
  readonly #flying: Promise<void>[] = []
  readonly #staging: Tensor[] = []

  constructor(
    private readonly source: TensorSource,
    private readonly dtype: TensorDType,
    private readonly queue: Queue,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** `bytes` of the file from `offset` on into contiguous memory. */
  async read(fd: number, offset: number, to: Tensor, bytes: number): Promise<void> {
    for (let at = 0; at < bytes; at += DIRECT_PIECE) {
      await this.#turn()
      this.#piece(fd, offset + at, to, at, Math.min(DIRECT_PIECE, bytes - at))
    }
  }

  /** Rows in pieces through staging memory: read, then cast or copy. Contiguous targets are cut anywhere. */
  async convert(fd: number, target: Tensor): Promise<void> {
    const flat = target.isContiguous
    const total = numel(target.shape)
    const cols = flat ? 1 : target.shape.at(-1)!
    const item = itemSize(this.dtype)
    const rowsPerPiece = Math.max(1, Math.floor(STAGED_PIECE / (cols * item)))
    const staging = this.#stage(this.dtype, [Math.min(rowsPerPiece, total / cols), cols])
    for (let row = 0; row < total / cols; row += rowsPerPiece) {
      await this.#turn()
      const count = Math.min(rowsPerPiece, total / cols - row)
      this.#piece(fd, this.source.offset + row * cols * item, staging, 0, count * cols * item)
      this.#cast(staging.alias(0, this.dtype, [count, cols]), target.strip(row, count, cols))
    }
  }

  /** The storage that the strides span, then their elements in order, then as {@link convert}. */
  async repack(fd: number, target: Tensor, strides: readonly number[]): Promise<void> {
    const { shape, offset } = this.source
    const item = itemSize(this.dtype)
    const bytes = span(shape, strides) * item
    const storage = this.#stage('u8', [bytes])
    await this.read(fd, offset, storage, bytes)
    await this.#turn()
    const direct = this.dtype === target.dtype && target.isContiguous
    const packed = direct ? target : this.#stage(this.dtype, [numel(shape) / shape.at(-1)!, shape.at(-1)!])
    const { native } = this.queue.device.runtime
    packed.storage.touch(this.queue)
    native.repack(this.queue.id, storage.address, packed.address, item, shape, strides)
    this.queue.count(false)
    if (!direct) this.#cast(packed.alias(0, this.dtype, packed.shape), target.strip(0, packed.shape[0]!, packed.shape[1]!))
  }

  /** Everything enqueued has run. */
  async finish(): Promise<void> {
    for (const piece of this.#flying) await piece
    this.queue.check('upload')
    await this.queue.mark()
  }

  /** Waits for pieces in flight whatever their outcome, then frees the staging memory. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#flying)
    for (const tensor of this.#staging) if (!tensor.disposed) tensor.dispose()
  }

  /** Waits until another piece may be enqueued. */
  async #turn(): Promise<void> {
    if (this.#flying.length >= IN_FLIGHT) await this.#flying.shift()
    this.signal?.throwIfAborted()
    this.queue.check('upload')
  }

  #piece(fd: number, offset: number, to: Tensor, at: number, bytes: number): void {
    const { ticket, done } = this.queue.ticket('upload')
    const piece = done.catch((error: unknown) => {
      throw OctetError.is(error, 'FILE_CHANGED') ? shortFile(this.source) : error
    })
    piece.catch(() => undefined)
    this.#flying.push(piece)
    const bytesOf = to.alias(at, 'u8', [bytes])
    enqueue(this.queue, 'readFile', [bytesOf], [fd, offset, bytes], ticket)
    bytesOf.dispose()
  }

  #cast(from: Tensor, to: Tensor): void {
    enqueue(this.queue, from.dtype === to.dtype ? 'copy' : 'cast', [from, to], [])
    from.dispose()
    to.dispose()
  }

  #stage(dtype: TensorDType, shape: readonly number[]): Tensor {
    const made = Tensor.empty(shape, { dtype, device: this.queue.device, queue: this.queue })
    const held = made.alias(0, dtype, shape)
    made.dispose()
    this.#staging.push(held)
    return held
  }
}
