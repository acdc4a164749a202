/** Token ids → bytes and text, from a token table: the rules of the Rust library's decoders. */
import { OctetError } from '@octet-llm/core'
import { trimText } from './decoder.js'
import { IN_USE, RAW_BYTE, SPECIAL, type TokenTable } from './token-table.js'

// A byte order mark inside a text is text: without ignoreBOM the decoder would drop one at the start.
const lossy = new TextDecoder('utf-8', { ignoreBOM: true })
const strict = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true })

const NONE = new Uint8Array(0)

/** The flags of an id; 0 for one that the vocabulary does not have. */
function flagsOf(table: TokenTable, id: number, op: string): number {
  if (!Number.isInteger(id) || id < 0) {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: 'ids', expected: 'whole numbers from 0', received: String(id) })
  }
  return table.flags[id] ?? 0
}

/** A copy of the bytes an id stands for; none for an id that the vocabulary does not have. */
export function bytesOf(table: TokenTable, id: number): Uint8Array {
  if (flagsOf(table, id, 'tokenBytes') === 0) return NONE
  return table.bytes.slice(table.offsets[id], table.offsets[id + 1])
}

/**
 * The text of a sequence. Ids that the vocabulary does not have are left out, as in the Rust library.
 * Byte-level: all bytes are joined, and each invalid sequence becomes U+FFFD.
 * Byte fallback: a run of raw-byte tokens that is not UTF-8 becomes one U+FFFD a byte.
 */
export function decodeIds(table: TokenTable, ids: readonly number[], skipSpecialTokens: boolean): string {
  const kept = ids.filter((id) => {
    const flags = flagsOf(table, id, 'decode')
    return (flags & IN_USE) !== 0 && !(skipSpecialTokens && (flags & SPECIAL) !== 0)
  })
  if (table.mode === 'lossy') return trimText(lossy.decode(join(table, kept)), table.trim)
  let text = ''
  for (let i = 0; i < kept.length; ) {
    const raw = isRaw(table, kept[i] as number)
    let end = i + 1
    while (end < kept.length && isRaw(table, kept[end] as number) === raw) end++
    const bytes = join(table, kept.slice(i, end))
    text += raw ? decodeRun(bytes) : lossy.decode(bytes)
    i = end
  }
  return trimText(text, table.trim)
}

function isRaw(table: TokenTable, id: number): boolean {
  return ((table.flags[id] as number) & RAW_BYTE) !== 0
}

function decodeRun(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes)
  } catch {
    return '\ufffd'.repeat(bytes.length)
  }
}

function join(table: TokenTable, ids: readonly number[]): Uint8Array {
  let total = 0
  for (const id of ids) total += (table.offsets[id + 1] as number) - (table.offsets[id] as number)
  const bytes = new Uint8Array(total)
  let at = 0
  for (const id of ids) {
    const begin = table.offsets[id] as number
    const end = table.offsets[id + 1] as number
    bytes.set(table.bytes.subarray(begin, end), at)
    at += end - begin
  }
  return bytes
}
