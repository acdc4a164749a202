import { OctetError } from '@octet-llm/core'
import type { TokenEvent } from './generate.js'
import type { GenerateOutput } from './output.js'
import type { FinishReason } from './engine/stopping.js'

/** What a run has made, once it is over. */
export interface RunResult extends GenerateOutput {
  /** Text of the first sequence: its new tokens without special tokens. */
  readonly text: string
  /** [B·R] */
  readonly texts: string[]
  /** Of the first sequence. */
  readonly finishReason: FinishReason
}

/** What a run streams to, and how it learns that nobody listens any more. */
export interface RunControl {
  readonly streaming: 'text' | 'tokens' | 'none'
  readonly stopRequested: () => boolean
  readonly pushText: (delta: string) => void
  readonly pushTokens: (events: readonly TokenEvent[]) => void
}

/** The work behind a run; called at most once. */
export type RunProducer = (control: RunControl) => Promise<RunResult>

/** Values handed from the work to the one consumer, in order, as fast as they come. */
class Channel<T> {
  readonly #values: T[] = []
  #waiting: (() => void) | null = null
  #closed = false

  push(value: T): void {
    this.#values.push(value)
    this.#wake()
  }

  close(): void {
    this.#closed = true
    this.#wake()
  }

  /** The next value, or undefined once closed and empty. */
  async next(): Promise<{ value: T } | undefined> {
    while (this.#values.length === 0) {
      if (this.#closed) return undefined
      await new Promise<void>((resolve) => (this.#waiting = resolve))
    }
    return { value: this.#values.shift()! }
  }

  #wake(): void {
    this.#waiting?.()
    this.#waiting = null
  }
}

/**
 * A generation that has not begun: it starts with the first read of a stream or with `result()`, and runs at its own
 * pace from then on. Not a promise: an async function can return it as it is.
 *
 * One consumer may stream it; `result()` may be asked for at any time, as often as wanted. Leaving a stream early ends
 * the work and frees the cache; `result()` then holds what there was, with finish reason 'aborted'. When the caller's
 * signal aborts, the stream and `result()` throw `signal.reason` unchanged; when the model is disposed, `DISPOSED`.
 */
export class GenerationRun {
  readonly #produce: RunProducer
  readonly #sequences: number
  readonly #text = new Channel<string>()
  readonly #tokens = new Channel<TokenEvent>()
  #consumed = false
  #stop = false
  #work: Promise<RunResult> | null = null

  /**
   * @param produce the work
   * @param sequences B·R: text streams carry one sequence only
   */
  constructor(produce: RunProducer, sequences: number) {
    this.#produce = produce
    this.#sequences = sequences
  }

  /**
   * The text in pieces, special tokens left out: whole lines, else up to the last space. Joined they are
   * `(await result()).text`. Beams come in one go at the end.
   * Iterating throws OctetError `STREAM_CONSUMED` for a second reader, `INVALID_ARGUMENT` for more than one sequence.
   */
  get textStream(): AsyncIterable<string> {
    return { [Symbol.asyncIterator]: () => this.#readText() }
  }

  /** Each new token as it comes. Iterating throws OctetError `STREAM_CONSUMED` for a second reader. */
  get tokenStream(): AsyncIterable<TokenEvent> {
    return { [Symbol.asyncIterator]: () => this.#read('tokens', this.#tokens) }
  }

  /** Everything, when it is over. */
  async result(): Promise<RunResult> {
    this.#consumed = true
    return this.#begin('none')
  }

  /** `textStream` as UTF-8 bytes, the body of a web `Response`. Throws as iterating `textStream` does. */
  toReadableStream(): ReadableStream<Uint8Array> {
    const iterator = this.#readText()
    const encoder = new TextEncoder()
    // A high-water mark of 0: nothing starts before the first read.
    return new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { done, value } = await iterator.next()
        if (done === true) controller.close()
        else controller.enqueue(encoder.encode(value))
      },
      async cancel() {
        await iterator.return!()
      },
    }, { highWaterMark: 0 })
  }

  #readText(): AsyncIterator<string> {
    if (this.#sequences > 1) {
      throw new OctetError('INVALID_ARGUMENT', {
        op: 'generate', argument: 'textStream', expected: 'a run of one sequence', received: `${this.#sequences}`,
        hint: 'read tokenStream or result()',
      })
    }
    return this.#read('text', this.#text)
  }

  #read<T>(streaming: 'text' | 'tokens', channel: Channel<T>): AsyncIterator<T> {
    if (this.#consumed) {
      throw new OctetError('STREAM_CONSUMED', {
        op: 'generate', argument: streaming === 'text' ? 'textStream' : 'tokenStream',
        message: '[generate] the run has a consumer already; open the one stream you need first, and take the rest from result()',
      })
    }
    this.#consumed = true
    let left = false
    return {
      next: async () => {
        if (left) return { done: true, value: undefined }
        const work = this.#begin(streaming)
        const next = await channel.next()
        if (next !== undefined) return { done: false, value: next.value }
        left = true
        await work
        return { done: true, value: undefined }
      },
      return: async () => {
        left = true
        this.#stop = true
        // A failure on the way out is result()'s to tell.
        await this.#work?.catch(() => undefined)
        return { done: true, value: undefined }
      },
    }
  }

  #begin(streaming: RunControl['streaming']): Promise<RunResult> {
    if (this.#work !== null) return this.#work
    const work = this.#produce({
      streaming,
      stopRequested: () => this.#stop,
      pushText: (delta) => this.#text.push(delta),
      pushTokens: (events) => events.forEach((event) => this.#tokens.push(event)),
    })
    const close = (): void => {
      this.#text.close()
      this.#tokens.close()
    }
    // Also keeps a run whose failure nobody asks for from becoming an unhandled rejection.
    work.then(close, close)
    this.#work = work
    return work
  }
}
