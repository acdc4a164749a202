import { asObject, asString, invalid, shown } from './json.js'
import { SplitPreTokenizer } from './library.js'

/**
 * A `pattern` field: `{"String": "…"}` stays a literal string, `{"Regex": "…"}` becomes a global regular expression by
 * the library's translation from Oniguruma's syntax. The empty string matches nothing and comes back as null.
 */
export function compilePattern(value: unknown, argument: string): string | RegExp | null {
  const config = asObject(value, argument)
  if (config['String'] !== undefined) return asString(config['String'], `${argument}.String`) || null
  const source = asString(config['Regex'], `${argument}.Regex`)
  const { pattern } = new SplitPreTokenizer({ pattern: { Regex: source }, behavior: 'Isolated', invert: false })
  if (pattern === null) throw invalid(argument, 'a regular expression', shown(source))
  return pattern
}

/** A stretch of text that is, or is not, a match of a pattern. */
export interface Span {
  readonly start: number
  readonly end: number
  readonly match: boolean
}

/** Matches and what lies between them, in order, covering `text`; empty stretches are left out. */
export function findSpans(text: string, pattern: string | RegExp | null): Span[] {
  const spans: Span[] = []
  let done = 0
  const push = (start: number, end: number): void => {
    if (done < start) spans.push({ start: done, end: start, match: false })
    if (start < end) spans.push({ start, end, match: true })
    done = end
  }
  if (typeof pattern === 'string') {
    for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + pattern.length)) push(at, at + pattern.length)
  } else if (pattern !== null) {
    for (const match of text.matchAll(pattern)) push(match.index, match.index + match[0].length)
  }
  if (done < text.length) spans.push({ start: done, end: text.length, match: false })
  return spans
}
