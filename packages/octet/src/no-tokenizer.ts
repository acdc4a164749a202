import { OctetError, type ChatTemplateOptions, type ChatMessage, type SpecialTokens, type Tokenizer } from '@octet-llm/core'

/**
 * Stands in for the tokenizer of a checkpoint that has none: token ids go in and out, the texts of a result are empty,
 * and whatever needs text is refused.
 */
export class NoTokenizer implements Tokenizer {
  readonly special: SpecialTokens = { bosTokenId: null, eosTokenId: null, padTokenId: null, unkTokenId: null }
  readonly vocabSize = 0
  readonly hasChatTemplate = false

  constructor(private readonly folder: string) {}

  async encode(_text: string): Promise<number[]> {
    throw this.#refusal()
  }

  async decode(_ids: readonly number[]): Promise<string> {
    return ''
  }

  async tokenBytes(_ids: readonly number[]): Promise<Uint8Array[]> {
    throw this.#refusal()
  }

  async applyChatTemplate(_messages: readonly ChatMessage[], _options?: ChatTemplateOptions): Promise<string> {
    throw this.#refusal()
  }

  async dispose(): Promise<void> {}

  #refusal(): OctetError {
    return new OctetError('FILE_NOT_FOUND', {
      op: 'generate',
      argument: this.folder,
      expected: 'a tokenizer.json beside the weights',
      received: 'none',
      hint: 'pass token ids as { inputIds }, or add the tokenizer files to the folder',
    })
  }
}
