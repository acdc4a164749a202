import type { Tokenizer } from '@octet-llm/core'
import { StreamingDecoder } from './streaming-decoder.js'

/** Which ids a decoder skips, learnt from the tokenizer once an id. */
class SpecialIds {
  readonly #tokenizer: Tokenizer
  readonly #known = new Map<number, boolean>()

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
    const { bosTokenId, eosTokenId, padTokenId } = tokenizer.special
    for (const id of [bosTokenId, eosTokenId, padTokenId]) if (id !== null) this.#known.set(id, true)
  }

  async has(id: number): Promise<boolean> {
    const known = this.#known.get(id)
    if (known !== undefined) return known
    // Special: shown by a plain decode and dropped by a skipping one. (A lone space may vanish from both.)
    const [skipped, shown] = await Promise.all([
      this.#tokenizer.decode([id], { skipSpecialTokens: true }),
      this.#tokenizer.decode([id], { skipSpecialTokens: false }),
    ])
    const special = skipped === '' && shown !== ''
    this.#known.set(id, special)
    return special
  }
}

function leadingSpaces(text: string): number {
  return text.length - text.replace(/^ +/, '').length
}

/**
 * The text of one sequence while its tokens arrive, special tokens left out. The pieces joined equal
 * `tokenizer.decode(tokens, { skipSpecialTokens: true })` wherever the bytes are valid UTF-8.
 */
export class TokenText {
  readonly #tokenizer: Tokenizer
  readonly #special: SpecialIds
  readonly #decoder = new StreamingDecoder()
  #started = false
  readonly #first: number[] = []

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
    this.#special = new SpecialIds(tokenizer)
  }

  async push(id: number): Promise<string> {
    if (await this.#special.has(id)) return ''
    const [bytes = new Uint8Array(0)] = await this.#tokenizer.tokenBytes([id])
    const text = this.#decoder.push(bytes)
    if (this.#started) return text
    this.#first.push(id)
    return text === '' ? '' : this.#start(text)
  }

  async end(): Promise<string> {
    const rest = this.#decoder.end()
    return this.#started || rest === '' ? rest : this.#start(rest)
  }

  /** Some tokenizers drop the space before the first word when they decode: follow what decode does. */
  async #start(text: string): Promise<string> {
    this.#started = true
    if (!text.startsWith(' ')) return text
    const decoded = await this.#tokenizer.decode(this.#first, { skipSpecialTokens: true })
    return text.slice(Math.max(0, leadingSpaces(text) - leadingSpaces(decoded)))
  }
}
