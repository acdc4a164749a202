import { itemSize } from '@octet-llm/core'
import { quoteName } from '../io/names.js'
import type { RegularFile } from '../io/regular-file.js'
import { badPickle, describe, PickleDict, PickleList, PickleTruncated, type PickleValue } from './pickle-values.js'
import { TensorHandlers, type Storage } from './tensors.js'
import { Unpickler } from './unpickler.js'

/** The number that opens a file of torch before 1.6. */
const MAGIC = 0x1950a86a20f9469cfc6cn
const PROTOCOL = 1001

const FIRST_WINDOW = 2 ** 20
const MAX_PICKLE_BYTES = 64 * 2 ** 20

/** The object that was saved, and where each of its storages begins in the file. */
export interface LegacyContents {
  readonly root: PickleValue
  readonly offsets: ReadonlyMap<string, number>
}

/**
 * Reads the layout of torch before 1.6: five pickles (magic, protocol, system, object, storage keys), then each storage as
 * a u64 count and its raw elements.
 * @throws PickleFault; the OctetErrors of reading.
 */
export async function readLegacy(file: RegularFile, signal?: AbortSignal): Promise<LegacyContents> {
  const handlers = new TensorHandlers()
  const pickles = new PickleStream(file, handlers, signal)
  const magic = await pickles.next()
  if (magic !== MAGIC) throw badPickle('the magic number of torch.save', describe(magic))
  const protocol = await pickles.next()
  if (protocol !== PROTOCOL) throw badPickle(`protocol version ${PROTOCOL}`, describe(protocol))
  const system = await pickles.next()
  if (entryOf(system, 'little_endian') !== true) throw badPickle('a file of a little-endian machine', 'another')
  const root = await pickles.next()
  const keys = await pickles.next()
  if (!(keys instanceof PickleList)) throw badPickle('a list of storage keys', describe(keys))
  return { root, offsets: await locate(file, keys.items.map(asKey), handlers.storages, pickles.end, signal) }
}

/** Pickles one after another. They state no length, so a window of the file grows whenever one outruns it. */
class PickleStream {
  /** Where the last pickle ended. */
  end = 0
  private window: Buffer = Buffer.alloc(0)

  constructor(
    private readonly file: RegularFile,
    private readonly handlers: TensorHandlers,
    private readonly signal: AbortSignal | undefined,
  ) {}

  async next(): Promise<PickleValue> {
    const unpickler = new Unpickler(this.end, this.handlers)
    for (;;) {
      try {
        const { value, end } = unpickler.run(this.window)
        this.end = end
        return value
      } catch (error) {
        if (!(error instanceof PickleTruncated) || !(await this.grow())) throw error
      }
    }
  }

  private async grow(): Promise<boolean> {
    const { length } = this.window
    const target = Math.min(Math.max(FIRST_WINDOW, 2 * length), this.file.size, MAX_PICKLE_BYTES)
    if (target === length) return false
    this.window = Buffer.concat([this.window, await this.file.read(length, target - length, this.signal)])
    return true
  }
}

function asKey(value: PickleValue): string {
  if (typeof value !== 'string') throw badPickle('a storage key', describe(value))
  return value
}

function entryOf(value: PickleValue, key: string): PickleValue | undefined {
  return value instanceof PickleDict ? value.values[value.keys.indexOf(key)] : undefined
}

/** Walks the raw part, checking each stated count against the pickle and the file. */
async function locate(file: RegularFile, keys: readonly string[], storages: ReadonlyMap<string, Storage>, start: number, signal: AbortSignal | undefined): Promise<ReadonlyMap<string, number>> {
  const offsets = new Map<string, number>()
  let at = start
  for (const key of keys) {
    const storage = storages.get(key)
    if (storage === undefined) throw badPickle('storage keys that the object names', quoteName(key))
    if (offsets.has(key)) throw badPickle('distinct storage keys', `${quoteName(key)} twice`)
    if (at + 8 > file.size) throw badPickle(`storage ${quoteName(key)} within ${file.size} bytes`, 'a file that ends before it')
    const count = (await file.read(at, 8, signal)).readBigUInt64LE()
    if (count !== BigInt(storage.length)) throw badPickle(`${storage.length} elements in storage ${quoteName(key)}`, String(count))
    const end = at + 8 + storage.length * itemSize(storage.dtype)
    if (end > file.size) throw badPickle(`storage ${quoteName(key)} within ${file.size} bytes`, `bytes up to ${end}`)
    offsets.set(key, at + 8)
    at = end
  }
  return offsets
}
