import { OctetError, type DType, type Shape, type TensorSource } from '@octet-llm/core'
import { quoteName } from '../io/names.js'
import { readBytes, readChunks, readFloat32, type ChunkOptions, type ReadOptions } from '../io/read-tensor.js'
import { RegularFile } from '../io/regular-file.js'
import { readLegacy } from './legacy.js'
import { badPickle, describe, PickleDict, PickleFault, type PickleValue } from './pickle-values.js'
import { TensorHandlers, TensorView, type Storage } from './tensors.js'
import { Unpickler } from './unpickler.js'
import { openZip, type ZipMember } from './zip.js'

const OP = 'openTorchBin'
const MAX_PICKLE_BYTES = 64 * 2 ** 20

/** One tensor of a `.bin` file. */
export interface TorchTensor {
  readonly dtype: DType
  readonly shape: Shape
  /** Bytes of the span that holds the elements. */
  readonly byteLength: number
  /** First byte within the file. */
  readonly offset: number
  /** Element strides, when the elements are not row-major. */
  readonly strides?: readonly number[]
}

/** A PyTorch `.bin` file open for reading. Nothing but its pickle is in memory until a tensor is asked for. */
export class TorchBinFile {
  private constructor(
    private readonly file: RegularFile,
    /** `zip` since torch 1.6, `legacy` before. */
    readonly layout: 'zip' | 'legacy',
    /** Every tensor by name, in the order of the pickled dictionary. Tensors that share bytes have the same offset. */
    readonly tensors: ReadonlyMap<string, TorchTensor>,
  ) {}

  /** See {@link openTorchBin}. */
  static async open(path: string, options: ReadOptions = {}): Promise<TorchBinFile> {
    options.signal?.throwIfAborted()
    const file = await RegularFile.open(path, OP)
    try {
      const layout = await layoutOf(file, options.signal)
      const tensors = layout === 'zip' ? await zipTensors(file, options.signal) : await legacyTensors(file, options.signal)
      return new TorchBinFile(file, layout, tensors)
    } catch (error) {
      await file.close()
      throw error instanceof PickleFault ? asOctetError(error, file.path) : error
    }
  }

  /** Absolute path. */
  get path(): string {
    return this.file.path
  }

  /**
   * Where a tensor's bytes lie.
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
   * The elements of a tensor in row-major order, little-endian.
   * @throws OctetError `INVALID_ARGUMENT` for an unknown name, `NOT_SUPPORTED` past 1 GiB, `FILE_CHANGED`, `DISPOSED`.
   */
  async read(name: string, options: ReadOptions = {}): Promise<Uint8Array> {
    return readBytes(this.file, this.source(name), options)
  }

  /** A tensor of any dtype as float32, row-major. Throws as {@link read} does. */
  async readFloat32(name: string, options: ReadOptions = {}): Promise<Float32Array> {
    return readFloat32(this.file, this.source(name), options)
  }

  /** A tensor's row-major bytes in bounded pieces (one piece when it is strided). Throws as {@link read} does. */
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
 * Opens a `pytorch_model.bin`: a zip archive or the layout before torch 1.6, holding one flat dictionary of tensors.
 * Its pickle runs in a reader that knows the opcodes and globals of tensors and refuses every other, so no code of the
 * file is ever run.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_TORCH_FILE`, `UNSAFE_PICKLE` (names the global or opcode), `FILE_CHANGED`.
 * @throws the signal's reason, unchanged.
 */
export function openTorchBin(path: string, options: ReadOptions = {}): Promise<TorchBinFile> {
  return TorchBinFile.open(path, options)
}

function asOctetError(fault: PickleFault, path: string): OctetError {
  const { code, expected, received } = fault
  const hint = fault.hint ?? 'the file is damaged or no dictionary of tensors; fetch it again or use its safetensors form'
  return new OctetError(code, { op: OP, argument: path, expected, received, hint })
}

async function layoutOf(file: RegularFile, signal: AbortSignal | undefined): Promise<'zip' | 'legacy'> {
  const start = await file.read(0, Math.min(4, file.size), signal)
  if (start.toString('latin1') === 'PK\x03\x04') return 'zip'
  if (start[0] === 0x80 && start[1] === 2) return 'legacy'
  throw badPickle('a file of torch.save', start.length === 0 ? 'an empty file' : 'other bytes')
}

async function legacyTensors(file: RegularFile, signal: AbortSignal | undefined): Promise<Map<string, TorchTensor>> {
  const { root, offsets } = await readLegacy(file, signal)
  return collect(root, (storage) => {
    const offset = offsets.get(storage.key)
    if (offset === undefined) throw badPickle(`the data of ${storage.describe()}`, 'a file without it')
    return offset
  })
}

async function zipTensors(file: RegularFile, signal: AbortSignal | undefined): Promise<Map<string, TorchTensor>> {
  const members = await openZip(file, signal)
  const pickleNames = [...members.keys()].filter((name) => name.endsWith('/data.pkl') && name.indexOf('/') === name.length - '/data.pkl'.length)
  if (pickleNames.length !== 1) throw badPickle('one data.pkl in the archive', String(pickleNames.length))
  const prefix = pickleNames[0]!.slice(0, -'data.pkl'.length)
  await checkByteOrder(file, members.get(`${prefix}byteorder`), signal)
  const pickle = await readMember(file, members.get(pickleNames[0]!)!, MAX_PICKLE_BYTES, signal)
  const handlers = new TensorHandlers()
  const { value, end } = new Unpickler(0, handlers).run(pickle)
  if (end !== pickle.length) throw badPickle('one pickle in data.pkl', 'bytes after it')
  const offsets = new Map<Storage, number>()
  for (const storage of handlers.storages.values()) {
    const member = members.get(`${prefix}data/${storage.key}`)
    if (member === undefined) throw badPickle(`the data of ${storage.describe()}`, 'an archive without it')
    if (member.byteLength !== storage.byteLength) {
      throw badPickle(`${storage.byteLength} bytes in ${storage.describe()}`, `${member.byteLength} bytes`)
    }
    offsets.set(storage, await member.offset())
  }
  return collect(value, (storage) => offsets.get(storage)!)
}

async function checkByteOrder(file: RegularFile, member: ZipMember | undefined, signal: AbortSignal | undefined): Promise<void> {
  if (member === undefined) return
  const order = (await readMember(file, member, 16, signal)).toString('latin1')
  if (order !== 'little') throw badPickle('little-endian data', quoteName(order))
}

async function readMember(file: RegularFile, member: ZipMember, maxBytes: number, signal: AbortSignal | undefined): Promise<Buffer> {
  if (member.byteLength > maxBytes) throw badPickle(`an entry of at most ${maxBytes} bytes`, `${member.byteLength} bytes`)
  return file.read(await member.offset(), member.byteLength, signal)
}

/** The root must be what a state_dict is: names to tensors, flat. Of a repeated name the last counts, as in Python. */
function collect(root: PickleValue, offsetOf: (storage: Storage) => number): Map<string, TorchTensor> {
  if (!(root instanceof PickleDict)) throw badPickle('a dictionary of tensors', describe(root))
  const tensors = new Map<string, TorchTensor>()
  root.keys.forEach((key, i) => {
    const value = root.values[i]!
    if (typeof key !== 'string') throw badPickle('names as keys', describe(key))
    if (!(value instanceof TensorView)) {
      const hint = 'save the state_dict itself, without anything around it'
      throw badPickle('a flat dictionary of tensors', `${describe(value)} under ${quoteName(key)}`, hint)
    }
    const { dtype, shape, byteLength, strides } = value
    const offset = offsetOf(value.storage) + value.byteOffset
    tensors.set(key, { dtype, shape, byteLength, offset, ...(strides === undefined ? {} : { strides }) })
  })
  return tensors
}
