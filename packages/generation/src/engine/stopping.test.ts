import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FakeTokenizer, pieceBytes, PIECES } from '../testing/fake-tokenizer.test.helper.js'
import { StopRules, StopStrings, TokenBytes, type StopOptions } from './stopping.js'

const tokenBytes = (): TokenBytes => {
  const tokenizer = new FakeTokenizer()
  return new TokenBytes((ids) => tokenizer.tokenBytes(ids))
}

async function match(strings: readonly string[], ids: readonly number[]): Promise<string | null> {
  const stops = new StopStrings(strings, tokenBytes())
  await stops.load(ids)
  return stops.match(ids)
}

describe('StopStrings', () => {
  it('finds a string that spans tokens, ends inside the last one, or lies within it', async () => {
    expect(await match(['END'], [4, 19])).toBe('END')
    expect(await match(['END'], [20, 21])).toBe('END')
    expect(await match(['XEN', 'EN'], [4, 20])).toBe('EN')
    expect(await match(['ing a'], [4, 8])).toBe('ing a')
    expect(await match(['kingdom'], [4])).toBeNull()
  })

  it('does not find one that was complete before the last token', async () => {
    expect(await match(['END'], [19, 9])).toBeNull()
    expect(await match(['b'], [9, 10])).toBeNull()
    expect(await match(['END'], [19, 22])).toBeNull()
    expect(await match(['xEND!'], [20, 22, 22, 22, 22, 22, 22, 21])).toBe('xEND!')
  })

  it('matches the bytes of a character that comes in parts', async () => {
    expect(await match(['中'], [13, 14, 15])).toBe('中')
    expect(await match(['中'], [13, 14])).toBeNull()
    expect(await match(['👑'], [16, 17])).toBe('👑')
  })

  it('gives the first of the list that matches', async () => {
    expect(await match(['D!', 'END'], [20, 21])).toBe('D!')
  })

  it('equals a search over all bytes for a match that ends in the last token', async () => {
    const ids = fc.array(fc.integer({ min: 3, max: PIECES.length - 1 }), { minLength: 1, maxLength: 12 })
    const strings = fc.array(fc.constantFrom('END', 'b', 'bc', ' the king', '中文', 'xENEND!', 'c.\n', '👑a', 'cEND'), { minLength: 1, maxLength: 3 })
    await fc.assert(fc.asyncProperty(ids, strings, async (tokens, stops) => {
      const before = Buffer.concat(tokens.slice(0, -1).map(pieceBytes))
      const all = Buffer.concat([before, pieceBytes(tokens.at(-1)!)])
      const want = stops.find((s) => {
        const bytes = Buffer.from(s)
        for (let end = before.length + 1; end <= all.length; end++) {
          if (end >= bytes.length && all.subarray(end - bytes.length, end).equals(bytes)) return true
        }
        return false
      })
      expect(await match(stops, tokens)).toBe(want ?? null)
    }), { numRuns: 1000 })
  })

  it('asks the tokenizer for each id once', async () => {
    const tokenizer = new FakeTokenizer()
    const stops = new StopStrings(['END'], new TokenBytes((ids) => tokenizer.tokenBytes(ids)))
    for (const ids of [[4, 4, 5], [4, 5, 4], [5, 4, 19]]) await stops.load(ids)
    expect(tokenizer.asked).toEqual([4, 5, 19])
  })
})

describe('StopRules', () => {
  const rules = (options: Partial<StopOptions>): StopRules =>
    new StopRules({ eosTokenIds: [1, 5], maxNewTokens: 3, stopStrings: null, criteria: [], deadline: null, ...options })
  const check = (r: StopRules, ids: readonly number[], newTokens: number): unknown =>
    r.check(ids, newTokens, { ids, promptLength: ids.length - newTokens, sequence: 7 })

  it('ends at any EOS id, at exactly the length, and not before', () => {
    expect(check(rules({}), [2, 5], 1)).toEqual({ reason: 'eos' })
    expect(check(rules({}), [1, 2], 1)).toBeNull()
    expect(check(rules({}), [2, 3, 4], 2)).toBeNull()
    expect(check(rules({}), [2, 3, 4], 3)).toEqual({ reason: 'length' })
    expect(check(rules({}), [2, 3, 1], 3)).toEqual({ reason: 'eos' })
  })

  it('asks the caller, with the row in hand', () => {
    const seen: unknown[] = []
    const stop = rules({ criteria: [() => false, (context) => { seen.push(context); return true }] })
    expect(check(stop, [2, 3], 1)).toEqual({ reason: 'criterion' })
    expect(seen).toEqual([{ ids: [2, 3], promptLength: 1, sequence: 7 }])
  })

  it('refuses criteria that do not answer true or false', () => {
    for (const answer of [Promise.resolve(true), undefined, 1]) {
      const stop = rules({ criteria: [() => answer as unknown as boolean] })
      expect(() => check(stop, [2], 1)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'stoppingCriteria' }) as Error)
    }
  })

  it('ends when the time is over', () => {
    expect(check(rules({ deadline: performance.now() - 1 }), [2], 1)).toEqual({ reason: 'time' })
    expect(check(rules({ deadline: performance.now() + 1e6 }), [2], 1)).toBeNull()
  })
})
