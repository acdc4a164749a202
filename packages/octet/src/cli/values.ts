import { InvalidArgumentError } from 'commander'
import { OctetError } from '@octet-llm/core'

/** A parser of one flag's text, as commander calls it. */
export type Parse<T> = (text: string) => T

/** A whole number of at least `min`. */
export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): Parse<number> {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : NaN
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`Give a whole number ${range(min, max)}.`)
    return value
  }
}

/** A finite number within [min, max]. */
export function number(min = -Number.MAX_VALUE, max = Number.MAX_VALUE): Parse<number> {
  return (text) => {
    const value = text.trim() === '' ? NaN : Number(text)
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`Give a number ${range(min, max)}.`)
    return value
  }
}

function range(min: number, max: number): string {
  const upper = max >= Number.MAX_SAFE_INTEGER ? '' : ` to ${max}`
  if (min <= -Number.MAX_SAFE_INTEGER) return upper === '' ? 'such as 1.5' : `up to ${max}`
  return upper === '' ? `of at least ${min}` : `from ${min}${upper}`
}

/** `1,107`: whole numbers, at least one. */
export const wholeNumberList: Parse<number[]> = (text) => text.split(',').map(wholeNumber(0, 0x7fffffff))

/** `a,b`: texts; `\,` is a comma, `\n` a new line, `\t` a tab, `\\` a backslash. */
export const textList: Parse<string[]> = (text) => {
  const items: string[] = ['']
  for (let i = 0; i < text.length; i++) {
    const character = text.charAt(i)
    if (character === ',') items.push('')
    else if (character !== '\\') items[items.length - 1] += character
    else items[items.length - 1] += unescape(text.charAt(++i))
  }
  if (items.includes('')) throw new InvalidArgumentError('Give texts parted by commas, none of them empty.')
  return items
}

function unescape(character: string): string {
  if (character === 'n') return '\n'
  if (character === 't') return '\t'
  if (character === ',' || character === '\\') return character
  throw new InvalidArgumentError('After a backslash write n, t, a comma or a backslash.')
}

/** The text itself, once `check` has accepted it; what it throws becomes a usage error. */
export function checked(check: (text: string) => unknown): Parse<string> {
  return (text) => {
    try {
      check(text)
    } catch (error) {
      throw new InvalidArgumentError(OctetError.is(error) ? `Give ${error.expected}.` : String(error))
    }
    return text
  }
}

export function oneOf<const T extends string>(...choices: T[]): Parse<T> {
  return (text) => {
    if (!(choices as string[]).includes(text)) throw new InvalidArgumentError(`Give one of ${choices.join(', ')}.`)
    return text as T
  }
}

/** `auto`, `cpu`, `cuda` or `cuda:1`. */
export const device: Parse<'auto' | 'cpu' | 'cuda' | `cuda:${number}`> = (text) => {
  if (!/^(auto|cpu|cuda(:\d{1,3})?)$/.test(text)) throw new InvalidArgumentError('Give auto, cpu, cuda or cuda:N.')
  return text as 'auto'
}
