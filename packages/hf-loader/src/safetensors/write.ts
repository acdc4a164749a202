import { checkShape, itemSize, numel, OctetError, type DType, type Shape } from '@octet-llm/core'
import { writeFileAtomic, type FileWriter } from '../io/atomic-write.js'
import { quoteName } from '../io/names.js'
import { nameOfDType, rankOfDType } from './dtypes.js'
import { LENGTH_BYTES, MAX_HEADER_BYTES } from './header.js'

const OP = 'writeSafetensors'

/** Bytes of one tensor, whole or made a piece at a time when the writer comes to it. */
export type TensorData = ArrayBufferView | (() => AsyncIterable<Uint8Array> | Iterable<Uint8Array>)

/** A tensor to write: row-major, little-endian. */
export interface TensorEntry {
  readonly name: string
  readonly dtype: DType
  readonly shape: Shape
  readonly data: TensorData
}

export interface WriteOptions {
  /** The header's `__metadata__`; `{ format: 'pt' }` is what transformers expects of a model. */
  readonly metadata?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal | undefined
  /** Called after each tensor with the bytes of tensor data written so far. */
  readonly onProgress?: (writtenBytes: number, totalBytes: number) => void
}

/**
 * Writes a safetensors file byte for byte as the reference writer does: `__metadata__` first, tensors by dtype (widest
 * first) then by name, the header padded with spaces to 8. Only the piece being written is in memory. The file appears
 * whole or not at all.
 * @throws OctetError `INVALID_ARGUMENT` (names, shapes, data of another length), `FILE_WRITE_FAILED`.
 * @throws the signal's reason, or what a data producer throws, unchanged.
 */
export async function writeSafetensors(path: string, entries: Iterable<TensorEntry>, options: WriteOptions = {}): Promise<void> {
  const ordered = inFileOrder(entries)
  const header = encodeHeader(ordered, options.metadata)
  const totalBytes = ordered.reduce((sum, entry) => sum + byteLengthOf(entry), 0)
  options.signal?.throwIfAborted()
  await writeFileAtomic(path, OP, async (writer) => {
    await writer.write(header)
    let written = 0
    for (const entry of ordered) {
      await writeTensor(writer, entry, options.signal)
      written += byteLengthOf(entry)
      options.onProgress?.(written, totalBytes)
    }
  })
}

/** Bytes a tensor takes in a file. */
export function byteLengthOf(entry: { dtype: DType; shape: Shape }): number {
  return numel(entry.shape) * itemSize(entry.dtype)
}

/** The reference's order, after the names and shapes are checked. */
function inFileOrder(entries: Iterable<TensorEntry>): TensorEntry[] {
  const keyed = new Map<string, { entry: TensorEntry; key: Buffer }>()
  for (const entry of entries) {
    checkText(entry.name, 'name')
    if (entry.name === '__metadata__') throw badArgument('name', 'a name other than "__metadata__"', quoteName(entry.name))
    if (keyed.has(entry.name)) throw badArgument('entries', 'distinct names', `${quoteName(entry.name)} twice`)
    checkShape(entry.shape, OP, `shape of ${quoteName(entry.name)}`)
    keyed.set(entry.name, { entry, key: Buffer.from(entry.name) })
  }
  return [...keyed.values()]
    .sort((a, b) => rankOfDType(b.entry.dtype) - rankOfDType(a.entry.dtype) || Buffer.compare(a.key, b.key))
    .map(({ entry }) => entry)
}

/** Length, JSON and padding. */
function encodeHeader(ordered: readonly TensorEntry[], metadata: Readonly<Record<string, string>> | undefined): Buffer {
  const members: string[] = []
  if (metadata !== undefined) {
    const pairs = Object.entries(metadata).map(([key, value]) => {
      checkText(key, 'metadata')
      checkText(value, 'metadata')
      return `${JSON.stringify(key)}:${JSON.stringify(value)}`
    })
    members.push(`"__metadata__":{${pairs.join(',')}}`)
  }
  let begin = 0
  for (const entry of ordered) {
    const end = begin + byteLengthOf(entry)
    const shape = entry.shape.join(',')
    members.push(
      `${JSON.stringify(entry.name)}:{"dtype":"${nameOfDType(entry.dtype)}","shape":[${shape}],"data_offsets":[${begin},${end}]}`,
    )
    begin = end
  }
  const json = Buffer.from(`{${members.join(',')}}`)
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > MAX_HEADER_BYTES) throw badArgument('entries', `a header of at most ${MAX_HEADER_BYTES} bytes`, `${padded} bytes`)
  const header = Buffer.alloc(LENGTH_BYTES + padded, ' ')
  header.writeBigUInt64LE(BigInt(padded))
  json.copy(header, LENGTH_BYTES)
  return header
}

async function writeTensor(writer: FileWriter, entry: TensorEntry, signal: AbortSignal | undefined): Promise<void> {
  const expected = byteLengthOf(entry)
  let written = 0
  const pieces = typeof entry.data === 'function' ? entry.data() : [entry.data]
  for await (const piece of pieces) {
    signal?.throwIfAborted()
    written += piece.byteLength
    if (written > expected) break
    await writer.write(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength))
  }
  if (written === expected) return
  const received = written > expected ? `at least ${written} bytes` : `${written} bytes`
  throw badArgument(`data of ${quoteName(entry.name)}`, `${expected} bytes for ${entry.dtype} [${entry.shape.join(', ')}]`, received)
}

/** JSON that is UTF-8 cannot carry half a surrogate pair. */
function checkText(text: unknown, argument: string): void {
  if (typeof text === 'string' && !/\p{Surrogate}/u.test(text)) return
  throw badArgument(argument, 'a well-formed string', typeof text === 'string' ? quoteName(text) : typeof text)
}

function badArgument(argument: string, expected: string, received: string): OctetError {
  return new OctetError('INVALID_ARGUMENT', { op: OP, argument, expected, received })
}
