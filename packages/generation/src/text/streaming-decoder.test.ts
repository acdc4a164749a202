import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FakeTokenizer, PIECES } from '../testing/fake-tokenizer.test.helper.js'
import { StreamingDecoder } from './streaming-decoder.js'
import { TokenText } from './token-text.js'

const utf8 = new TextEncoder()

function pieces(...parts: (string | number[])[]): string[] {
  const decoder = new StreamingDecoder()
  return [...parts.map((part) => decoder.push(typeof part === 'string' ? utf8.encode(part) : Uint8Array.from(part))), decoder.end()]
}

describe('StreamingDecoder', () => {
  it('emits up to the last space, and everything at a line end', () => {
    expect(pieces('Once', ' upon', ' a', ' time', '.\n', 'There')).toEqual(['', 'Once ', 'upon ', 'a ', 'time.\n', '', 'There'])
  })

  it('emits CJK at once, also beyond the basic plane, and other scripts by words', () => {
    expect(pieces('中', '文', 'a', '𠀀', 'b')).toEqual(['中', '文', '', 'a𠀀', '', 'b'])
    expect(pieces('한', '글')).toEqual(['', '', '한글'])
    expect(pieces('豈', '㐀', '龿x')).toEqual(['豈', '㐀', '', '龿x'])
  })

  it('waits for the rest of a character and marks one that never ends', () => {
    expect(pieces([0xe4], [0xb8], [0xad])).toEqual(['', '', '中', ''])
    expect(pieces('a ', [0xf0, 0x9f], [0x91])).toEqual(['a ', '', '', '\ufffd'])
  })

  it('keeps a byte order mark', () => {
    expect(pieces('\ufeffa ').join('')).toBe('\ufeffa ')
  })

  it('joined gives the decoding of the whole, however the bytes are cut', () => {
    const bytes = fc.oneof(fc.string({ unit: 'binary' }).map((s) => utf8.encode(s)), fc.uint8Array({ maxLength: 30 }))
    fc.assert(fc.property(bytes, fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1 }), (whole, cuts) => {
      const decoder = new StreamingDecoder()
      let text = ''
      for (let at = 0, i = 0; at < whole.length; i++) {
        const size = cuts[i % cuts.length]!
        text += decoder.push(whole.subarray(at, at + size))
        at += size
      }
      expect(text + decoder.end()).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(whole))
    }), { numRuns: 300 })
  })
})

describe('TokenText', () => {
  async function stream(tokenizer: FakeTokenizer, ids: readonly number[]): Promise<string> {
    const text = new TokenText(tokenizer)
    let out = ''
    for (const id of ids) out += await text.push(id)
    return out + await text.end()
  }

  it.each([false, true])('joined gives what decode gives, special tokens left out (first space dropped: %s)', async (strips) => {
    const ids = fc.array(fc.integer({ min: 0, max: PIECES.length - 1 }), { maxLength: 20 })
    await fc.assert(fc.asyncProperty(ids, async (tokens) => {
      const tokenizer = new FakeTokenizer(strips)
      expect(await stream(tokenizer, tokens)).toBe(await tokenizer.decode(tokens, { skipSpecialTokens: true }))
    }), { numRuns: 500 })
  })

  it('finds out that an id is special without being told', async () => {
    const tokenizer = new FakeTokenizer()
    Object.assign(tokenizer, { special: { bosTokenId: null, eosTokenId: null, padTokenId: null, unkTokenId: null } })
    expect(await stream(tokenizer, [2, 9, 1, 10, 0])).toBe('bc')
  })
})
