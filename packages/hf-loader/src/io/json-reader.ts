import { isUtf8 } from 'node:buffer'

/** Text that is not the JSON it should be; callers turn it into the OctetError of their file. */
export class JsonSyntaxError extends Error {
  constructor(
    message: string,
    readonly position: number,
  ) {
    super(`${message} at byte ${position}`)
  }
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const END = -1

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39

/**
 * A strict pull reader of RFC 8259 JSON over bytes. It builds nothing but what its caller asks for, recurses only as deep
 * as its caller's own schema, and skips unknown values without recursion, so neither nesting nor repetition in a hostile
 * file costs memory or stack. Depth past `maxDepth` is a syntax error.
 */
export class JsonReader {
  private at = 0

  /** @throws JsonSyntaxError when the bytes are not UTF-8. */
  constructor(
    private readonly bytes: Buffer,
    private readonly maxDepth = 128,
  ) {
    if (!isUtf8(bytes)) throw new JsonSyntaxError('not valid UTF-8', 0)
  }

  /** First byte of the next token, not consumed; -1 at the end. */
  peek(): number {
    for (;;) {
      const byte = this.at < this.bytes.length ? this.bytes[this.at]! : END
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte
      this.at++
    }
  }

  /** Calls `onKey` once a member, which must consume the value. Keys repeat if the file repeats them. */
  readObject(onKey: (key: string) => void): void {
    this.expect(OPEN_BRACE, 'an object')
    if (this.take(CLOSE_BRACE)) return
    do {
      if (this.peek() !== QUOTE) this.fail('expected a member name')
      const key = this.readString()
      this.expect(COLON, '":"')
      onKey(key)
    } while (this.take(COMMA))
    this.expect(CLOSE_BRACE, '"," or "}"')
  }

  /** Calls `onItem` once an element, which must consume it. */
  readArray(onItem: () => void): void {
    this.expect(OPEN_BRACKET, 'an array')
    if (this.take(CLOSE_BRACKET)) return
    do {
      onItem()
    } while (this.take(COMMA))
    this.expect(CLOSE_BRACKET, '"," or "]"')
  }

  /** A string; lone surrogate escapes are refused, since no UTF-8 name can hold one. */
  readString(): string {
    this.expect(QUOTE, 'a string')
    const start = this.at
    let escaped = false
    for (;;) {
      const byte = this.at < this.bytes.length ? this.bytes[this.at]! : END
      if (byte === QUOTE) break
      if (byte < 0x20) this.fail(byte === END ? 'a string does not end' : 'a control character in a string')
      if (byte === BACKSLASH) {
        escaped = true
        this.at++
      }
      this.at++
    }
    const end = this.at++
    if (!escaped) return this.bytes.toString('utf8', start, end)
    return this.unescape(start, end)
  }

  /** A whole number of at least 0 that a double holds exactly, written with digits only. */
  readUnsigned(): number {
    this.peek()
    const start = this.at
    while (this.at < this.bytes.length && isDigit(this.bytes[this.at]!)) this.at++
    const digits = this.at - start
    const next = this.bytes[this.at]
    const fraction = next === 0x2e || next === 0x65 || next === 0x45
    if (digits === 0 || fraction || (digits > 1 && this.bytes[start] === 0x30)) {
      this.fail('expected a whole number of at least 0')
    }
    const value = digits > 16 ? Infinity : Number(this.bytes.toString('latin1', start, this.at))
    if (!Number.isSafeInteger(value)) this.fail('expected a number below 2^53')
    return value
  }

  /** Consumes `null` and says so; anything else is left. */
  takeNull(): boolean {
    if (this.peek() !== 0x6e) return false
    this.literal('null')
    return true
  }

  /** Passes over one value of any kind, without recursion. */
  skipValue(): void {
    const closers: number[] = []
    do {
      this.skipOpening(closers)
      // A closed value may close its parents too.
      while (closers.length > 0 && !this.take(COMMA)) this.expect(closers.pop()!, '"," or the end of a list')
      if (closers.at(-1) === CLOSE_BRACE) this.skipKey()
    } while (closers.length > 0)
  }

  /** @throws JsonSyntaxError when anything but white space follows. */
  end(): void {
    if (this.peek() !== END) this.fail('unexpected text after the value')
  }

  /** A syntax error where the reader stands. */
  fail(message: string): never {
    throw new JsonSyntaxError(message, this.at)
  }

  /** Reads a scalar or an empty container, or enters a container up to its first element. */
  private skipOpening(closers: number[]): void {
    for (;;) {
      const byte = this.peek()
      if (byte !== OPEN_BRACE && byte !== OPEN_BRACKET) return this.skipScalar(byte)
      this.at++
      const closer = byte === OPEN_BRACE ? CLOSE_BRACE : CLOSE_BRACKET
      if (this.take(closer)) return
      if (closers.length >= this.maxDepth) this.fail(`nested deeper than ${this.maxDepth}`)
      closers.push(closer)
      if (closer === CLOSE_BRACE) this.skipKey()
    }
  }

  private skipKey(): void {
    if (this.peek() !== QUOTE) this.fail('expected a member name')
    this.readString()
    this.expect(COLON, '":"')
  }

  private skipScalar(byte: number): void {
    if (byte === QUOTE) this.readString()
    else if (byte === 0x74) this.literal('true')
    else if (byte === 0x66) this.literal('false')
    else if (byte === 0x6e) this.literal('null')
    else this.skipNumber()
  }

  private skipNumber(): void {
    const digits = (): void => {
      const start = this.at
      while (isDigit(this.bytes[this.at] ?? 0)) this.at++
      if (this.at === start) this.fail('expected a value')
    }
    if (this.bytes[this.at] === 0x2d) this.at++
    const first = this.bytes[this.at]
    const second = this.bytes[this.at + 1]
    if (first === 0x30 && second !== undefined && isDigit(second)) this.fail('a number with a leading zero')
    digits()
    if (this.bytes[this.at] === 0x2e) {
      this.at++
      digits()
    }
    if (this.bytes[this.at] === 0x65 || this.bytes[this.at] === 0x45) {
      this.at++
      if (this.bytes[this.at] === 0x2b || this.bytes[this.at] === 0x2d) this.at++
      digits()
    }
  }

  private literal(text: string): void {
    if (this.bytes.toString('latin1', this.at, this.at + text.length) !== text) this.fail('expected a value')
    this.at += text.length
  }

  private take(byte: number): boolean {
    if (this.peek() !== byte) return false
    this.at++
    return true
  }

  private expect(byte: number, what: string): void {
    if (!this.take(byte)) this.fail(`expected ${what}`)
  }

  private unescape(start: number, end: number): string {
    let text: string
    try {
      text = JSON.parse(this.bytes.toString('utf8', start - 1, end + 1)) as string
    } catch {
      return this.fail('a bad escape in a string')
    }
    if (/\p{Surrogate}/u.test(text)) this.fail('a lone surrogate in a string')
    return text
  }
}
