import { OctetError } from '@octet-llm/core'
import type { ProcessorContext } from '../processors/types.js'

/** Why a sequence ended: an EOS id, a stop string, the caller's criterion, the length, the time, or an abort. */
export type FinishReason = 'eos' | 'stop' | 'criterion' | 'length' | 'time' | 'aborted'

/**
 * The caller's own stop: called after each new token with the row that ends in it; true ends the sequence.
 * Must be synchronous.
 */
export type StoppingCriterion = (context: ProcessorContext) => boolean

/** The bytes of token ids, fetched once an id from the tokenizer and then known synchronously. */
export class TokenBytes {
  readonly #fetch: (ids: readonly number[]) => Promise<readonly Uint8Array[]>
  readonly #known = new Map<number, Uint8Array>()

  constructor(fetch: (ids: readonly number[]) => Promise<readonly Uint8Array[]>) {
    this.#fetch = fetch
  }

  async load(ids: readonly number[]): Promise<void> {
    const missing = [...new Set(ids)].filter((id) => !this.#known.has(id))
    if (missing.length === 0) return
    const bytes = await this.#fetch(missing)
    missing.forEach((id, i) => this.#known.set(id, bytes[i] ?? new Uint8Array(0)))
  }

  /** Bytes of an id that `load` has seen. */
  get(id: number): Uint8Array | undefined {
    return this.#known.get(id)
  }
}

/** Stop strings as bytes, matched so that the match ends inside or at the end of the last token. */
export class StopStrings {
  readonly #patterns: readonly { readonly text: string; readonly bytes: Buffer }[]
  readonly #bytes: TokenBytes
  readonly #window: number

  constructor(strings: readonly string[], bytes: TokenBytes) {
    this.#patterns = strings.map((text) => ({ text, bytes: Buffer.from(text) }))
    this.#bytes = bytes
    this.#window = Math.max(...this.#patterns.map((p) => p.bytes.length - 1))
  }

  /** Fetches the bytes of the tokens at the end of `ids` that can be part of a match. */
  async load(ids: readonly number[]): Promise<void> {
    // A token may turn out to have no bytes: then one more before it can matter.
    for (;;) {
      const missing = this.#reach(ids).filter((id) => this.#bytes.get(id) === undefined)
      if (missing.length === 0) return
      await this.#bytes.load(missing)
    }
  }

  /** The string that `ids` (loaded before) completes in its last token, or null. */
  match(ids: readonly number[]): string | null {
    const tokens = this.#reach(ids)
    const last = this.#bytes.get(tokens.pop()!)!
    const head = Buffer.concat(tokens.map((id) => this.#bytes.get(id)!))
    for (const { text, bytes } of this.#patterns) {
      // Only the last len-1 bytes may precede the last token: a match must reach into it.
      const haystack = Buffer.concat([head.subarray(Math.max(0, head.length - (bytes.length - 1))), last])
      if (haystack.includes(bytes)) return text
    }
    return null
  }

  /** The last token and those before it that a match can reach; a token not yet known counts as one byte. */
  #reach(ids: readonly number[]): number[] {
    let bytes = 0
    let begin = ids.length - 1
    while (begin > 0 && bytes < this.#window) bytes += this.#bytes.get(ids[--begin]!)?.length ?? 1
    return ids.slice(begin)
  }
}

export interface StopOptions {
  readonly eosTokenIds: readonly number[]
  readonly maxNewTokens: number
  readonly stopStrings: StopStrings | null
  readonly criteria: readonly StoppingCriterion[]
  /** performance.now() after which a sequence ends; null for never. */
  readonly deadline: number | null
}

export interface StopDecision {
  readonly reason: FinishReason
  readonly stopString?: string
}

/** What ends a sequence of one request. */
export class StopRules {
  readonly #options: StopOptions
  readonly #eos: ReadonlySet<number>

  constructor(options: StopOptions) {
    this.#options = options
    this.#eos = new Set(options.eosTokenIds)
  }

  /** Fetches what `check` will read about `ids`; resolves at once without stop strings. */
  async load(ids: readonly number[]): Promise<void> {
    await this.#options.stopStrings?.load(ids)
  }

  /**
   * @param ids packed prompt and new tokens
   * @param newTokens how many of them are new
   * @param context the same row as processors see it
   */
  check(ids: readonly number[], newTokens: number, context: ProcessorContext): StopDecision | null {
    const o = this.#options
    if (this.#eos.has(ids[ids.length - 1]!)) return { reason: 'eos' }
    const stopString = o.stopStrings?.match(ids) ?? null
    if (stopString !== null) return { reason: 'stop', stopString }
    if (o.criteria.some((criterion) => decide(criterion, context))) return { reason: 'criterion' }
    if (newTokens >= o.maxNewTokens) return { reason: 'length' }
    if (o.deadline !== null && performance.now() > o.deadline) return { reason: 'time' }
    return null
  }
}

function decide(criterion: StoppingCriterion, context: ProcessorContext): boolean {
  const answer: unknown = criterion(context)
  if (typeof answer === 'boolean') return answer
  throw new OctetError('INVALID_ARGUMENT', {
    op: 'generate',
    argument: 'stoppingCriteria',
    expected: 'functions that return true or false',
    received: answer instanceof Promise ? 'a Promise' : typeof answer,
    hint: 'decide synchronously; use the signal to stop from outside',
  })
}
