/**
 * Every token's bytes, in one block: what decoding, streaming and stop strings need, so that none of them has to ask
 * the sandbox.
 */
import { byteLevelBytes, fallbackByte } from './bytes.js'
import type { Decoder } from './decoder.js'

/** The id is in use; without it the id stands for nothing. */
export const IN_USE = 1
/** Left out by `skipSpecialTokens`. */
export const SPECIAL = 2
/** One raw byte of byte fallback: decodes together with its neighbours of the same kind. */
export const RAW_BYTE = 4

export interface TokenTable {
  /** Bytes of id i: `bytes[offsets[i] … offsets[i + 1])`. */
  readonly bytes: Uint8Array
  readonly offsets: Uint32Array
  readonly flags: Uint8Array
  /** How bytes become text: `lossy` replaces invalid sequences in the whole, `runs` handles runs of raw bytes. */
  readonly mode: 'lossy' | 'runs'
  /** Characters cut from the start and the end of the decoded text. */
  readonly trim: { readonly content: string; readonly start: number; readonly stop: number }
}

const encoder = new TextEncoder()

/** The table of a vocabulary: tokens by id, with the special ones marked. */
export function buildTable(tokens: ReadonlyMap<number, string>, special: ReadonlySet<number>, decoder: Decoder): TokenTable {
  let size = 0
  for (const id of tokens.keys()) size = Math.max(size, id + 1)
  const parts: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(size)
  const flags = new Uint8Array(size)
  let total = 0
  for (const [id, token] of tokens) {
    let flag = IN_USE | (special.has(id) ? SPECIAL : 0)
    let bytes: Uint8Array
    if (decoder.kind === 'byteLevel') {
      bytes = byteLevelBytes(token)
    } else {
      const text = decoder.transform(token)
      const byte = decoder.byteFallback ? fallbackByte(text) : null
      bytes = byte === null ? encoder.encode(text) : Uint8Array.of(byte)
      if (byte !== null) flag |= RAW_BYTE
    }
    parts[id] = bytes
    flags[id] = flag
    total += bytes.length
  }

  const bytes = new Uint8Array(total)
  const offsets = new Uint32Array(size + 1)
  let at = 0
  for (let id = 0; id < size; id++) {
    const part = parts[id]
    if (part !== undefined) {
      bytes.set(part, at)
      at += part.length
    }
    offsets[id + 1] = at
  }
  const trim = decoder.kind === 'byteLevel' ? { content: '', start: 0, stop: 0 } : decoder.trim
  return { bytes, offsets, flags, mode: decoder.kind === 'byteLevel' ? 'lossy' : 'runs', trim }
}
