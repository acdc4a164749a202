import { crc32 } from 'node:zlib'

/** Pieces of protocol 2 pickles, as Python's pickler writes them. */
export type Piece = Buffer | string

export const bytes = (...values: number[]): Buffer => Buffer.from(values)
export const join = (...pieces: Piece[]): Buffer => Buffer.concat(pieces.map((piece) => (typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece)))

function u32(value: number): Buffer {
  const out = Buffer.alloc(4)
  out.writeUInt32LE(value)
  return out
}

function u64(value: number | bigint): Buffer {
  const out = Buffer.alloc(8)
  out.writeBigUInt64LE(BigInt(value))
  return out
}

export const str = (text: string): Buffer => join('X', u32(Buffer.byteLength(text)), Buffer.from(text))
export const global = (name: string): Buffer => {
  const dot = name.lastIndexOf('.')
  return join(`c${name.slice(0, dot)}\n${name.slice(dot + 1)}\n`)
}
export const tuple = (...items: Piece[]): Buffer => join('(', ...items, 't')
export const list = (...items: Piece[]): Buffer => join('](', ...items, 'e')
export const dict = (...items: Piece[]): Buffer => join('}(', ...items, 'u')
export const orderedDict = (): Buffer => join(global('collections.OrderedDict'), ')R')
export const call = (name: string, ...args: Piece[]): Buffer => join(global(name), tuple(...args), 'R')
export const pickle = (value: Piece): Buffer => join('\x80\x02', value, '.')

export function int(value: number | bigint): Buffer {
  if (value >= 0 && value < 256) return bytes(0x4b, Number(value))
  if (value >= -(2 ** 31) && value < 2 ** 31) {
    const out = Buffer.alloc(4)
    out.writeInt32LE(Number(value))
    return join('J', out)
  }
  const raw: number[] = []
  for (let rest = BigInt(value); raw.length < 16; rest >>= 8n) raw.push(Number(rest & 255n))
  return join(bytes(0x8a, raw.length), bytes(...raw))
}

export interface TensorSpec {
  key?: string
  storage?: string
  /** Elements of the storage. */
  length?: number | bigint
  offset?: number | bigint
  size?: readonly (number | bigint)[]
  stride?: readonly (number | bigint)[]
}

/** `_rebuild_tensor_v2` over one storage; a float32 vector of 4 by default. */
export function tensorV2(spec: TensorSpec = {}, extra: Piece[] = []): Buffer {
  const { size = [4], stride = [1], offset = 0 } = spec
  return call('torch._utils._rebuild_tensor_v2', storage(spec), int(offset), tuple(...size.map(int)), tuple(...stride.map(int)), '\x89', orderedDict(), ...extra)
}

export function storage({ key = '0', storage: name = 'torch.FloatStorage', length = 4 }: TensorSpec = {}, extra: Piece[] = []): Buffer {
  return join(tuple(str('storage'), global(name), str(key), str('cpu'), int(length), ...extra), 'Q')
}

export interface ZipSpec {
  name: string
  data: Buffer
  /** What the directory claims instead of the truth. */
  size?: number
  method?: number
  flags?: number
  localOffset?: number
}

/** A zip archive of stored entries. */
export function zip(entries: readonly ZipSpec[], entryCount = entries.length): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const { name, data, size = data.length, method = 0, flags = 0x800, localOffset = at } of entries) {
    const nameBytes = Buffer.from(name)
    const common = Buffer.alloc(26)
    common.writeUInt16LE(20, 0)
    common.writeUInt16LE(flags, 2)
    common.writeUInt16LE(method, 4)
    common.writeUInt32LE(crc32(data), 10)
    common.writeUInt32LE(size, 14)
    common.writeUInt32LE(size, 18)
    common.writeUInt16LE(nameBytes.length, 22)
    const local = join('PK\x03\x04', common, nameBytes, data)
    directory.push(join('PK\x01\x02', bytes(20, 0), common, Buffer.alloc(10), u32(localOffset), nameBytes))
    parts.push(local)
    at += local.length
  }
  const central = join(...directory)
  const end = Buffer.alloc(18)
  end.writeUInt16LE(entryCount, 4)
  end.writeUInt16LE(entryCount, 6)
  end.writeUInt32LE(central.length, 8)
  end.writeUInt32LE(at, 12)
  return join(...parts, central, 'PK\x05\x06', end)
}

/** A `.bin` since torch 1.6 around a pickled object. */
export function torchZip(object: Piece, storages: Record<string, Buffer> = { 0: floats(1, 2, 3, 4) }, more: readonly ZipSpec[] = []): Buffer {
  return zip([
    { name: 'archive/data.pkl', data: pickle(object) },
    { name: 'archive/byteorder', data: Buffer.from('little') },
    ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
    { name: 'archive/version', data: Buffer.from('3\n') },
    ...more,
  ])
}

/** A `.bin` before torch 1.6; each storage is [key, count, data]. */
export function torchLegacy(object: Piece, storages: readonly (readonly [key: string, count: number | bigint, data: Buffer])[] = [['0', 4, floats(1, 2, 3, 4)]], keys = storages.map(([key]) => key)): Buffer {
  return join(
    pickle(join(bytes(0x8a, 10), Buffer.from('6cfc9c46f9206aa85019', 'hex'))),
    pickle(join('M', bytes(0xe9, 0x03))),
    pickle(dict(str('protocol_version'), join('M', bytes(0xe9, 0x03)), str('little_endian'), '\x88')),
    pickle(object),
    pickle(list(...keys.map(str))),
    ...storages.map(([, count, data]) => join(u64(count), data)),
  )
}

export function floats(...values: number[]): Buffer {
  return Buffer.from(Float32Array.from(values).buffer)
}
