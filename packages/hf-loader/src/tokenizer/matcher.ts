import type { AddedToken } from './added-tokens.js'

/** A stretch of text, or one added token found in it. */
export interface Section {
  readonly text: string
  /** First code unit within the text that was split. */
  readonly start: number
  /** Id of the added token, null for plain text. */
  readonly id: number | null
}

interface Node {
  readonly next: Map<number, Node>
  token: AddedToken | null
}

const WORD_AT_END = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const WORD_AT_START = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u
const WHITE_SPACE = /\p{White_Space}/u

function isWhiteSpace(text: string, index: number): boolean {
  return WHITE_SPACE.test(text[index] ?? '')
}

/**
 * Finds added tokens: the longest one at the leftmost place, in one pass, with the Rust library's rules for single
 * words and stripped white space. Linear in the text for tokens of bounded length.
 */
export class TokenMatcher {
  readonly #root: Node = { next: new Map(), token: null }

  /** `entries` pairs what to look for with its token; the first of two equal patterns wins. */
  constructor(entries: Iterable<readonly [pattern: string, token: AddedToken]>) {
    for (const [pattern, token] of entries) {
      if (pattern === '') continue
      let node = this.#root
      for (let i = 0; i < pattern.length; i++) {
        const unit = pattern.charCodeAt(i)
        let next = node.next.get(unit)
        if (next === undefined) {
          next = { next: new Map(), token: null }
          node.next.set(unit, next)
        }
        node = next
      }
      node.token ??= token
    }
  }

  /** Sections that cover `text` in order; none is empty. */
  split(text: string): Section[] {
    const sections: Section[] = []
    let done = 0
    let at = 0
    while (at < text.length) {
      const found = this.#longest(text, at)
      if (found === null) {
        at++
        continue
      }
      const end = at + found.length
      const { token } = found
      if (token.singleWord && (WORD_AT_END.test(text.slice(Math.max(0, at - 2), at)) || WORD_AT_START.test(text.slice(end, end + 2)))) {
        at = end
        continue
      }
      let start = at
      let stop = end
      if (token.lstrip) while (start > done && isWhiteSpace(text, start - 1)) start--
      if (token.rstrip) while (stop < text.length && isWhiteSpace(text, stop)) stop++
      if (done < start) sections.push({ text: text.slice(done, start), start: done, id: null })
      sections.push({ text: text.slice(start, stop), start, id: token.id })
      done = stop
      at = stop
    }
    if (done < text.length) sections.push({ text: text.slice(done), start: done, id: null })
    return sections
  }

  #longest(text: string, at: number): { token: AddedToken; length: number } | null {
    let found: { token: AddedToken; length: number } | null = null
    let node = this.#root
    for (let i = at; i < text.length; i++) {
      const next = node.next.get(text.charCodeAt(i))
      if (next === undefined) break
      node = next
      if (node.token !== null) found = { token: node.token, length: i + 1 - at }
    }
    return found
  }
}
