import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Tokenizer } from '@octet-llm/core'
import { loadTokenizer } from './index.js'
import { FIXTURES } from './support.test-helper.js'

interface Golden {
  readonly prompts: readonly string[]
  readonly token_ids: readonly (readonly number[])[]
  readonly tokenizer: readonly { text: string; ids: number[]; decoded: string; decoded_skip_special: string }[]
  readonly chat: { readonly messages: readonly { role: string; content: string }[]; readonly text: string }
  readonly greedy_64: readonly (readonly number[])[]
  readonly greedy_64_text: readonly string[]
}

const SPECIAL = {
  gemma: { bosTokenId: 2, eosTokenId: 1, padTokenId: 0, unkTokenId: 3 },
  llama: { bosTokenId: 0, eosTokenId: 1, padTokenId: 5, unkTokenId: null },
}

describe.each(['gemma', 'llama'] as const)('fairy-%s against Hugging Face', (family) => {
  const golden = JSON.parse(readFileSync(join(FIXTURES, `golden-fairy-${family}/golden.json`), 'utf8')) as Golden
  let tokenizer: Tokenizer
  beforeAll(async () => {
    tokenizer = await loadTokenizer(join(FIXTURES, `fairy-${family}`))
  })
  afterAll(() => tokenizer.dispose())

  it('encodes every prompt', async () => {
    expect(golden.prompts.length).toBe(golden.token_ids.length)
    for (const [i, prompt] of golden.prompts.entries()) expect(await tokenizer.encode(prompt), prompt).toEqual(golden.token_ids[i])
  })

  it('encodes and decodes the odd strings', async () => {
    expect(golden.tokenizer.length).toBeGreaterThan(0)
    for (const { text, ids, decoded, decoded_skip_special } of golden.tokenizer) {
      expect(await tokenizer.encode(text), text).toEqual(ids)
      expect(await tokenizer.decode(ids)).toBe(decoded)
      expect(await tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded_skip_special)
    }
  })

  it('decodes what was generated', async () => {
    for (const [i, ids] of golden.greedy_64.entries()) {
      const text = golden.greedy_64_text[i] as string
      expect(await tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text)
    }
  })

  it('renders the chat template, and encodes it without a second bos', async () => {
    const text = await tokenizer.applyChatTemplate(golden.chat.messages)
    expect(text).toBe(golden.chat.text)
    const ids = await tokenizer.encode(text, { addSpecialTokens: false })
    expect(ids.filter((id) => id === tokenizer.special.bosTokenId)).toHaveLength(1)
    const open = await tokenizer.applyChatTemplate(golden.chat.messages, { addGenerationPrompt: false })
    expect(text.startsWith(open)).toBe(true)
    expect(open.length).toBeLessThan(text.length)
  })

  it('joins token bytes to the UTF-8 of the text, also inside characters', async () => {
    for (const { text, ids } of golden.tokenizer) {
      const parts = await tokenizer.tokenBytes(ids.slice(1))
      expect(Buffer.concat(parts).toString('utf8')).toBe(text)
    }
    const dragon = await tokenizer.tokenBytes(await tokenizer.encode('🐉', { addSpecialTokens: false }))
    expect(Buffer.concat(dragon)).toEqual(Buffer.from('🐉'))
    expect(dragon.length).toBeGreaterThan(1)
    expect(dragon[0]?.[0]).toBe(0xf0)
  })

  it('knows its special tokens and its size', () => {
    expect(tokenizer.special).toEqual(SPECIAL[family])
    expect(tokenizer.vocabSize).toBe(2048)
    expect(tokenizer.hasChatTemplate).toBe(true)
  })

  it('gives what it cannot decode an empty text', async () => {
    expect(await tokenizer.decode([])).toBe('')
    expect(await tokenizer.decode([tokenizer.vocabSize, 1e9])).toBe('')
    expect(await tokenizer.tokenBytes([1e9])).toEqual([new Uint8Array(0)])
  })
})
