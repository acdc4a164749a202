/** CJK ideographs, which are words by themselves: the blocks that transformers' TextStreamer knows. */
const CJK_BLOCKS: readonly (readonly [number, number])[] = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f], [0x2b820, 0x2ceaf],
  [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
]

function endsInCjk(text: string): boolean {
  const last = text.codePointAt(text.length - (/[\udc00-\udfff]$/.test(text) ? 2 : 1))
  return last !== undefined && CJK_BLOCKS.some(([from, to]) => last >= from && last <= to)
}

/**
 * Bytes in, words out. Bytes of one character may come in several pieces; a piece of text is emitted when it ends a
 * line or in a CJK ideograph, else up to its last space, as transformers' TextStreamer does. Everything that went in
 * comes out in order: the emitted pieces joined are the UTF-8 decoding of the joined bytes.
 */
export class StreamingDecoder {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  #pending = ''

  /** Text that can be shown once `bytes` have come; often ''. */
  push(bytes: Uint8Array): string {
    this.#pending += this.#decoder.decode(bytes, { stream: true })
    const text = this.#pending
    const end = text.endsWith('\n') || endsInCjk(text) ? text.length : text.lastIndexOf(' ') + 1
    this.#pending = text.slice(end)
    return text.slice(0, end)
  }

  /** The rest; an unfinished character becomes U+FFFD. */
  end(): string {
    const rest = this.#pending + this.#decoder.decode()
    this.#pending = ''
    return rest
  }
}
