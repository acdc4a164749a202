import { InvalidArgumentError } from 'commander'
import { describe, expect, it } from 'vitest'
import { bar } from './progress.js'
import { formatBytes, formatCount, formatTable } from './table.js'
import { device, number, oneOf, textList, wholeNumber, wholeNumberList } from './values.js'

describe('values', () => {
  it('reads whole numbers within their range', () => {
    expect(wholeNumber(0)('12')).toBe(12)
    expect(wholeNumber(-5)('-3')).toBe(-3)
    for (const text of ['', ' ', '1.5', '1e3', 'x', '0x10', '-1', '9007199254740993']) expect(() => wholeNumber(0)(text), text).toThrow(InvalidArgumentError)
    expect(() => wholeNumber(1, 4)('5')).toThrow('from 1 to 4')
  })

  it('reads numbers within their range', () => {
    expect(number(0, 1)('0.95')).toBe(0.95)
    expect(number()('-1e-3')).toBe(-0.001)
    for (const text of ['', 'x', 'NaN', 'Infinity', '1.5']) expect(() => number(0, 1)(text), text).toThrow(InvalidArgumentError)
  })

  it('reads lists', () => {
    expect(wholeNumberList('1,107')).toEqual([1, 107])
    expect(() => wholeNumberList('1,,2')).toThrow(InvalidArgumentError)
    expect(textList(String.raw`a\, b,c\n,\\`)).toEqual(['a, b', 'c\n', '\\'])
    expect(() => textList('a,')).toThrow(InvalidArgumentError)
    expect(() => textList('a\\x')).toThrow(InvalidArgumentError)
  })

  it('reads choices and devices', () => {
    expect(oneOf('a', 'b')('b')).toBe('b')
    expect(() => oneOf('a', 'b')('c')).toThrow('a, b')
    expect(['auto', 'cpu', 'cuda', 'cuda:3'].map(device)).toEqual(['auto', 'cpu', 'cuda', 'cuda:3'])
    for (const text of ['gpu', 'cuda:', 'cuda:-1', 'cpu:0']) expect(() => device(text), text).toThrow(InvalidArgumentError)
  })
})

describe('what people read', () => {
  it('scales bytes and counts', () => {
    expect([0, 999, 1000, 6_200_000, 999_600_000, 2.5e9].map(formatBytes)).toEqual(['0 B', '999 B', '1.0 kB', '6.2 MB', '1.0 GB', '2.5 GB'])
    expect([12, 3_100_000, 1_235_814_400].map(formatCount)).toEqual(['12', '3.1M', '1.24B'])
  })

  it('aligns columns', () => {
    expect(formatTable([['name', 'bytes'], ['a', '12']], [1])).toBe('name  bytes\na        12\n')
  })

  it('draws a bar that never leaves its frame', () => {
    expect(bar('loading', 0, 100)).toContain('░'.repeat(28))
    expect(bar('loading', 300, 100)).toContain('█'.repeat(28))
    expect(bar('loading', 0, 0)).toContain('█'.repeat(28))
  })
})
