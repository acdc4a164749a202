import { itemSize, numel, OctetError, type Shape, type TensorSource } from '@octet-llm/core'
import { quoteName } from './names.js'
import { MAX_BUFFER_BYTES, RegularFile } from './regular-file.js'
import { toFloat32 } from './to-float32.js'

/** Bytes of one chunk unless the caller says otherwise; a multiple of every item size. */
const CHUNK_BYTES = 4 * 2 ** 20

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined
}

export interface ChunkOptions extends ReadOptions {
  /** Largest chunk in bytes, rounded down to whole elements. Default 4 MiB. */
  readonly chunkBytes?: number
}

/**
 * The elements of a tensor in row-major order.
 * @throws OctetError `NOT_SUPPORTED` past 1 GiB, `FILE_CHANGED`, `DISPOSED`.
 */
export async function readBytes(file: RegularFile, source: TensorSource, options: ReadOptions = {}): Promise<Uint8Array> {
  checkSize(file.op, source, Math.max(source.byteLength, numel(source.shape) * itemSize(source.dtype)))
  const span = plain(await file.read(source.offset, source.byteLength, options.signal))
  return source.strides === undefined ? span : toRowMajor(span, itemSize(source.dtype), source.shape, source.strides)
}

/** The elements of a tensor as float32, row-major. Throws as {@link readBytes} does. */
export async function readFloat32(file: RegularFile, source: TensorSource, options: ReadOptions = {}): Promise<Float32Array> {
  const length = numel(source.shape)
  checkSize(file.op, source, length * 4)
  const out = new Float32Array(length)
  if (source.strides !== undefined) {
    toFloat32(await readBytes(file, source, options), source.dtype, out)
    return out
  }
  let done = 0
  for await (const chunk of readChunks(file, source, options)) {
    const items = chunk.byteLength / itemSize(source.dtype)
    toFloat32(chunk, source.dtype, out.subarray(done, done + items))
    done += items
  }
  return out
}

/**
 * The bytes of a row-major tensor in order, a bounded piece at a time, so that a tensor of any size can be copied. The
 * one buffer is reused: a chunk is valid until the next is asked for.
 */
export async function* readChunks(file: RegularFile, source: TensorSource, options: ChunkOptions = {}): AsyncGenerator<Uint8Array> {
  if (source.strides !== undefined) {
    yield await readBytes(file, source, options)
    return
  }
  const item = itemSize(source.dtype)
  const asked = options.chunkBytes ?? CHUNK_BYTES
  if (!Number.isSafeInteger(asked) || asked < item || asked > MAX_BUFFER_BYTES) {
    throw new OctetError('INVALID_ARGUMENT', {
      op: file.op,
      argument: 'chunkBytes',
      expected: `a whole number from ${item} to ${MAX_BUFFER_BYTES}`,
      received: String(asked),
    })
  }
  const size = Math.min(asked - (asked % item), source.byteLength)
  const buffer = plain(Buffer.allocUnsafeSlow(size))
  for (let done = 0; done < source.byteLength; done += size) {
    const chunk = buffer.subarray(0, Math.min(size, source.byteLength - done))
    await file.readInto(chunk, source.offset + done, options.signal)
    yield chunk
  }
}

/** Opens the source's file, reads the tensor's row-major bytes, and closes it. Throws as {@link readBytes} does. */
export async function readTensor(source: TensorSource, options: ReadOptions = {}): Promise<Uint8Array> {
  return withFile('readTensor', source, (file) => readBytes(file, source, options))
}

/** Opens the source's file, reads the tensor as float32, row-major, and closes it. Throws as {@link readBytes} does. */
export async function readTensorFloat32(source: TensorSource, options: ReadOptions = {}): Promise<Float32Array> {
  return withFile('readTensorFloat32', source, (file) => readFloat32(file, source, options))
}

async function withFile<T>(op: string, source: TensorSource, read: (file: RegularFile) => Promise<T>): Promise<T> {
  const file = await RegularFile.open(source.path, op)
  try {
    if (source.offset + source.byteLength > file.size) {
      throw new OctetError('FILE_CHANGED', {
        op,
        argument: source.path,
        expected: `at least ${source.offset + source.byteLength} bytes`,
        received: `${file.size} bytes`,
        hint: 'keep the file unchanged while its checkpoint is open',
      })
    }
    return await read(file)
  } finally {
    await file.close()
  }
}

/** The same memory without Node's Buffer methods, whose `slice` shares where that of Uint8Array copies. */
function plain(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
}

function checkSize(op: string, source: TensorSource, bytes: number): void {
  if (bytes <= MAX_BUFFER_BYTES) return
  throw new OctetError('NOT_SUPPORTED', {
    op,
    argument: `tensor ${quoteName(source.name)}`,
    expected: 'at most 1 GiB in one array',
    received: `${bytes} bytes`,
    hint: 'read it in pieces with chunks(name)',
  })
}

/** Copies strided elements into row-major order. `span` starts at the first element and holds whole elements. */
function toRowMajor(span: Uint8Array, item: number, shape: Shape, strides: readonly number[]): Uint8Array {
  const out = new Uint8Array(numel(shape) * item)
  if (out.length === 0) return out
  const lastLength = shape.at(-1)!
  const lastStride = strides.at(-1)! * item
  const index = shape.map(() => 0)
  let from = 0
  for (let to = 0; to < out.length; ) {
    for (let i = 0, at = from; i < lastLength; i++, at += lastStride) {
      for (let b = 0; b < item; b++) out[to++] = span[at + b]!
    }
    // The odometer of every axis but the last.
    for (let axis = shape.length - 2; axis >= 0; axis--) {
      from += strides[axis]! * item
      if (++index[axis]! < shape[axis]!) break
      from -= shape[axis]! * strides[axis]! * item
      index[axis] = 0
    }
  }
  return out
}
