import { OctetError, type TensorSource } from '@octet-llm/core'
import { quoteName } from '../io/names.js'
import { readBytes, readChunks, readFloat32, type ChunkOptions, type ReadOptions } from '../io/read-tensor.js'
import { RegularFile } from '../io/regular-file.js'
import { invalid, LENGTH_BYTES, MAX_HEADER_BYTES, parseHeader, type SafetensorsHeader, type SafetensorsTensor } from './header.js'

const OP = 'openSafetensors'

/** A safetensors file open for reading. Nothing but its header is in memory until a tensor is asked for. */
export class SafetensorsFile {
  private constructor(
    private readonly file: RegularFile,
    private readonly header: SafetensorsHeader,
  ) {}

  /** See {@link openSafetensors}. */
  static async open(path: string, options: ReadOptions = {}): Promise<SafetensorsFile> {
    options.signal?.throwIfAborted()
    const file = await RegularFile.open(path, OP)
    try {
      return new SafetensorsFile(file, await readHeader(file, options.signal))
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** Absolute path. */
  get path(): string {
    return this.file.path
  }

  /** Every tensor by name, in file order. */
  get tensors(): ReadonlyMap<string, SafetensorsTensor> {
    return this.header.tensors
  }

  /** The header's `__metadata__`; empty when there is none. */
  get metadata(): ReadonlyMap<string, string> {
    return this.header.metadata
  }

  /**
   * Where a tensor's bytes lie, for a reader of its own such as a device's upload.
   * @throws OctetError `INVALID_ARGUMENT` for a name the file does not hold.
   */
  source(name: string): TensorSource {
    const tensor = this.tensors.get(name)
    if (tensor === undefined) {
      throw new OctetError('INVALID_ARGUMENT', {
        op: OP,
        argument: 'name',
        expected: `one of the ${this.tensors.size} tensors of ${this.path}`,
        received: quoteName(name),
        hint: 'list the names with file.tensors.keys()',
      })
    }
    return { name, path: this.path, ...tensor }
  }

  /**
   * The bytes of a tensor, row-major, little-endian.
   * @throws OctetError `INVALID_ARGUMENT` for an unknown name, `NOT_SUPPORTED` past 1 GiB (use {@link chunks}),
   *   `FILE_CHANGED` when the file ends early, `DISPOSED` after `close`.
   */
  async read(name: string, options: ReadOptions = {}): Promise<Uint8Array> {
    return readBytes(this.file, this.source(name), options)
  }

  /** A tensor of any dtype as float32, row-major. Throws as {@link read} does. */
  async readFloat32(name: string, options: ReadOptions = {}): Promise<Float32Array> {
    return readFloat32(this.file, this.source(name), options)
  }

  /** A tensor's bytes in bounded pieces; each is valid until the next is asked for. Throws as {@link read} does. */
  chunks(name: string, options: ChunkOptions = {}): AsyncGenerator<Uint8Array> {
    return readChunks(this.file, this.source(name), options)
  }

  /** Idempotent; waits for reads in flight. */
  close(): Promise<void> {
    return this.file.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * Opens a safetensors file and validates its header in full.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_SAFETENSORS`, `NOT_SUPPORTED` (sub-byte and complex dtypes),
 *   `FILE_CHANGED`.
 * @throws the signal's reason, unchanged.
 */
export function openSafetensors(path: string, options: ReadOptions = {}): Promise<SafetensorsFile> {
  return SafetensorsFile.open(path, options)
}

async function readHeader(file: RegularFile, signal: AbortSignal | undefined): Promise<SafetensorsHeader> {
  const context = { op: OP, path: file.path }
  if (file.size < LENGTH_BYTES) throw invalid(context, 'file', 'at least 8 bytes', `${file.size} bytes`)
  const declared = (await file.read(0, LENGTH_BYTES, signal)).readBigUInt64LE()
  if (declared > BigInt(MAX_HEADER_BYTES)) {
    throw invalid(context, 'header length', `at most ${MAX_HEADER_BYTES}`, String(declared))
  }
  const length = Number(declared)
  const dataStart = LENGTH_BYTES + length
  if (dataStart > file.size) {
    throw invalid(context, 'header length', `at most ${file.size - LENGTH_BYTES} in a file of ${file.size} bytes`, String(length))
  }
  const bytes = await file.read(LENGTH_BYTES, length, signal)
  return parseHeader(bytes, { ...context, dataStart, dataLength: file.size - dataStart })
}
