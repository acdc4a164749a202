import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FUZZ_TIMEOUT, fuzzCases } from '../testing/support.test-helper.js'
import { JsonReader, JsonSyntaxError } from './json-reader.js'

/** Accepts exactly what a strict parser accepts. */
function accepts(text: string | Buffer, maxDepth?: number): boolean {
  try {
    const reader = new JsonReader(typeof text === 'string' ? Buffer.from(text) : text, maxDepth)
    reader.skipValue()
    reader.end()
    return true
  } catch (error) {
    if (error instanceof JsonSyntaxError) return false
    throw error
  }
}

function parses(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

describe('JsonReader.skipValue', () => {
  it.each(['', ' ', '{', '}', '[', ']', '[1', '[1,', '[1,]', '{,}', '{"a"', '{"a":', '{"a":}', '{"a":1,}', '{"a" 1}', '{a:1}', '[1 2]', '[[]', '[]]',
    '{}}', '1 2', '01', '-', '+1', '1.', '.5', '1e', '1e+', '0x1', 'tru', 'truee', 'nul', 'NaN', '"', '"\\"', '"\\x"', '"\\u12"', '"a\nb"', "'a'", '[1,,2]', '{"a":1 "b":2}', '[}', '{]'])('refuses %j', (text) => {
    expect(accepts(text)).toBe(false)
    expect(parses(text)).toBe(false)
  })

  it.each(['0', '-0', '1.5e-7', 'true', 'false', 'null', '""', '"\\u00e9\\n\\"\\\\"', ' [ ] ', '{ }', '[[],{},[[1]],{"a":{"b":[]}}]', '\t{"a" : [1 , 2] , "b":{}}\r\n', '"é"'])('accepts %j', (text) => {
    expect(accepts(text)).toBe(true)
  })

  it('agrees with JSON.parse on mutated JSON', () => {
    const mutated = fc
      .tuple(fc.json({ maxDepth: 4 }), fc.array(fc.tuple(fc.nat(), fc.constantFrom(...'{}[],:"\\0e-.1tn u')), { maxLength: 2 }))
      .map(([json, edits]) => edits.reduce((text, [at, char]) => {
        const i = at % (text.length + 1)
        return text.slice(0, i) + char + text.slice(i + (at % 2))
      }, json))
      .filter((text) => !/\p{Surrogate}|\\u[dD][89a-fA-F]/u.test(text))
    fc.assert(fc.property(mutated, (text) => accepts(text) === parses(text)), { numRuns: fuzzCases(2000) })
  }, FUZZ_TIMEOUT)

  it('bounds depth without using the stack', () => {
    expect(accepts('['.repeat(128) + ']'.repeat(128))).toBe(true)
    expect(accepts('['.repeat(130) + ']'.repeat(130))).toBe(false)
    expect(accepts('{"a":'.repeat(1e5) + '1' + '}'.repeat(1e5))).toBe(false)
    expect(accepts('['.repeat(1e5) + ']'.repeat(1e5), 1e6)).toBe(true)
  })

  it('refuses bytes that are not UTF-8, lone surrogates and a byte order mark', () => {
    expect(accepts(Buffer.from([0x22, 0xff, 0x22]))).toBe(false)
    expect(accepts(Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]))).toBe(false)
    expect(accepts('"\\ud800"')).toBe(false)
    expect(accepts('"\\ud83d\\ude00"')).toBe(true)
    expect(accepts('\ufeff{}')).toBe(false)
  })
})

describe('JsonReader.readUnsigned', () => {
  const read = (text: string): number => new JsonReader(Buffer.from(text)).readUnsigned()

  it('reads every whole number a double holds exactly', () => {
    expect(read('0')).toBe(0)
    expect(read(' 42 ')).toBe(42)
    expect(read('9007199254740991')).toBe(Number.MAX_SAFE_INTEGER)
  })

  it.each(['-1', '-0', '1.0', '1e2', '1E2', '01', '', 'null', '"1"', '9007199254740992', '18446744073709551615', '9'.repeat(400)])('refuses %j', (text) => {
    expect(() => read(text)).toThrow(JsonSyntaxError)
  })
})

it('reads strings as JSON.parse does', () => {
  const wellFormed = fc.string({ unit: 'binary', maxLength: 40 })
  fc.assert(fc.property(wellFormed, (text) => {
    expect(new JsonReader(Buffer.from(JSON.stringify(text))).readString()).toBe(text)
  }), { numRuns: fuzzCases(1000) })
})
