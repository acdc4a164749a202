/**
 * The byte-level alphabet of GPT-2: each byte as one printable character, so that a BPE over characters is a BPE over
 * bytes. Printable Latin-1 bytes stand for themselves; the other 68 take U+0100… in order.
 */
export const BYTE_OF_CHAR: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>()
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    map.set(String.fromCharCode(printable ? byte : next++), byte)
  }
  return map
})()

const encoder = new TextEncoder()

/**
 * The bytes of a byte-level token. A token with any character outside the alphabet (an added token such as `日本`)
 * stands for its own UTF-8, as in the Rust library.
 */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = []
  for (const char of token) {
    const byte = BYTE_OF_CHAR.get(char)
    if (byte === undefined) return encoder.encode(token)
    bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/

/** The byte that `<0x0A>` stands for; null for any other token. */
export function fallbackByte(token: string): number | null {
  const match = BYTE_TOKEN.exec(token)
  return match === null ? null : Number.parseInt(match[1] as string, 16)
}
