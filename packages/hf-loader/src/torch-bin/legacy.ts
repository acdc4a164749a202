import { itemSize } from '@octet-llm/core'
import { quoteName } from '../io/names.js'
import type { RegularFile } from '../io/regular-file.js'
import { badPickle, describe, PickleDict, PickleList, PickleTruncated, type PickleValue } from './pickle-values.js'
import { TensorHandlers, type Storage } from './tensors.js'
import { unpickle } from './unpickler.js'

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
 * a u64 count and its raw elements. The pickles state no length, so they are read from a window that grows when it was
 * too small.
 * @throws PickleFault; the OctetErrors of reading.
 */
export async function readLegacy(file: RegularFile, signal?: AbortSignal): Promise<LegacyContents> {
  const limit = Math.min(file.size, MAX_PICKLE_BYTES)
  for (let size = Math.min(FIRST_WINDOW, limit); ; size = Math.min(2 * size, limit)) {
    const window = await file.read(0, size, signal)
    try {
      const { root, keys, storages, end } = parsePickles(window)
      return { root, offsets: await locate(file, keys, storages, end, signal) }
    } catch (error) {
      if (!(error instanceof PickleTruncated) || size === limit) throw error
    }
  }
}

interface Pickles {
  root: PickleValue
  keys: readonly string[]
  storages: ReadonlyMap<string, Storage>
  end: number
}

function parsePickles(bytes: Buffer): Pickles {
  const handlers = new TensorHandlers()
  let at = 0
  const next = (): PickleValue => {
    const { value, end } = unpickle(bytes, at, handlers)
    at = end
    return value
  }
  const magic = next()
  if (magic !== MAGIC) throw badPickle('the magic number of torch.save', describe(magic))
  const protocol = next()
  if (protocol !== PROTOCOL) throw badPickle(`protocol version ${PROTOCOL}`, String(protocol))
  const system = next()
  if (entryOf(system, 'little_endian') !== true) throw badPickle('a file of a little-endian machine', 'another')
  const root = next()
  const keys = next()
  if (!(keys instanceof PickleList)) throw badPickle('a list of storage keys', describe(keys))
  return { root, keys: keys.items.map(asKey), storages: handlers.storages, end: at }
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
