import type { ChatMessage, Tokenizer } from '@octet-llm/core'

/** Pieces of text, some of them parts of a character, with special tokens at the front. */
export const PIECES: readonly (string | Uint8Array)[] = [
  '<pad>', '<eos>', '<bos>', ' the', ' king', ' and', '.', '\n', ' a', 'b', 'c', '中', '文', Uint8Array.of(0xe4), Uint8Array.of(0xb8),
  Uint8Array.of(0xad), Uint8Array.of(0xf0, 0x9f), Uint8Array.of(0x91, 0x91), ' ', 'END', 'xEN', 'D!', '', '  x', '   ',
]
const SPECIAL = 3

const utf8 = new TextEncoder()

export function pieceBytes(id: number): Uint8Array {
  const piece = PIECES[id] ?? ''
  return typeof piece === 'string' ? utf8.encode(piece) : piece
}

/** A tokenizer over {@link PIECES}: `encode` is greedy by longest piece, `decode` joins bytes. */
export class FakeTokenizer implements Tokenizer {
  readonly special = { bosTokenId: 2, eosTokenId: 1, padTokenId: 0, unkTokenId: null }
  readonly vocabSize = PIECES.length
  readonly hasChatTemplate = true
  /** Ids whose bytes were asked for, in order. */
  readonly asked: number[] = []

  /** @param stripsFirstSpace as sentencepiece tokenizers of the Llama 2 kind decode */
  constructor(private readonly stripsFirstSpace = false) {}

  async encode(text: string, { addSpecialTokens = true }: { addSpecialTokens?: boolean } = {}): Promise<number[]> {
    const ids = addSpecialTokens ? [2] : []
    for (let at = 0; at < text.length; ) {
      const candidates = PIECES.map((piece, id) => ({ piece, id })).filter(({ piece }) => typeof piece === 'string' && piece !== '' && text.startsWith(piece, at))
      const best = candidates.sort((a, b) => b.piece.length - a.piece.length)[0]
      if (best === undefined) throw new Error(`no piece for ${text.slice(at)}`)
      ids.push(best.id)
      at += best.piece.length
    }
    return ids
  }

  async decode(ids: readonly number[], { skipSpecialTokens = false }: { skipSpecialTokens?: boolean } = {}): Promise<string> {
    const kept = ids.filter((id) => !(skipSpecialTokens && id < SPECIAL))
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(kept.map(pieceBytes)))
    return this.stripsFirstSpace && text.startsWith(' ') ? text.slice(1) : text
  }

  async tokenBytes(ids: readonly number[]): Promise<Uint8Array[]> {
    this.asked.push(...ids)
    await Promise.resolve()
    return ids.map(pieceBytes)
  }

  async applyChatTemplate(messages: readonly ChatMessage[]): Promise<string> {
    return `${messages.map((m) => m.content).join('\n')}<bos>`
  }

  async dispose(): Promise<void> {
    await Promise.resolve()
  }
}
