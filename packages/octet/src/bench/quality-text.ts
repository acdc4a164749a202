import { OctetError } from '@octet-llm/core'
import type { LanguageModel } from '../language-model.js'

/** A text cut into windows that are scored one by one, each from its own beginning. */
export interface TokenWindows {
  /** Token ids of each window, two or more, the first of them BOS where the model has one. */
  readonly windows: readonly (readonly number[])[]
  /** UTF-8 bytes of the text in the windows. */
  readonly bytes: number
}

export interface SampleOptions {
  readonly seed: number
  /** At least so many bytes of text. */
  readonly bytes: number
  /** Most tokens of a window, BOS included. */
  readonly window: number
  readonly signal: AbortSignal
}

/** Sequences that are sampled side by side. */
const BATCH = 32

/** What the model itself writes from BOS on, at temperature 1 with nothing cut off; a function of model and seed alone. */
export async function sampleWindows(llm: LanguageModel, { seed, bytes, window, signal }: SampleOptions): Promise<TokenWindows> {
  const start = [llm.info.bosTokenId ?? 0]
  const windows: number[][] = []
  let seen = 0
  for (let first = 0; seen < bytes; first += BATCH) {
    const before = seen
    const sequenceIds = Array.from({ length: BATCH }, (_, i) => first + i)
    const { tokens, texts } = await llm
      .generate({ inputIds: sequenceIds.map(() => start) }, { doSample: true, temperature: 1, topK: 0, topP: 1, maxNewTokens: window - 1, seed, sequenceIds, signal })
      .result()
    for (const [i, row] of tokens.entries()) {
      if (seen >= bytes) break
      windows.push([...start, ...row])
      seen += Buffer.byteLength(texts[i]!)
    }
    if (seen === before) throw new OctetError('INVALID_ARGUMENT', { op: 'fp8-quality', argument: 'model', expected: 'a model that writes text from its first token on', received: `${BATCH} sequences without any`, hint: 'use a trained checkpoint that has its tokenizer.json' })
  }
  return { windows, bytes: seen }
}

/** A given text, cut where windows are full; a rest of one token is left out. */
export async function cutWindows(llm: LanguageModel, text: string, window: number): Promise<TokenWindows> {
  const start = llm.info.bosTokenId === null ? [] : [llm.info.bosTokenId]
  const ids = await llm.tokenizer!.encode(text, { addSpecialTokens: false })
  const length = window - start.length
  const windows = Array.from({ length: Math.ceil(ids.length / length) }, (_, i) => [...start, ...ids.slice(i * length, (i + 1) * length)])
  const usable = windows.filter((each) => each.length > 1)
  if (usable.length === 0) throw new OctetError('INVALID_ARGUMENT', { op: 'fp8-quality', argument: 'text', expected: 'a text of two tokens at least', received: `one of ${ids.length}`, hint: 'pass a longer text' })
  return { windows: usable, bytes: Buffer.byteLength(text) }
}
