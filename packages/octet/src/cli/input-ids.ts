import { OctetError } from '@octet-llm/core'
import { readTextFile } from '../text-file.js'

/** The largest `--input-ids` file: about two million token ids. */
export const MAX_INPUT_IDS_BYTES = 16 * 2 ** 20

/** Token ids as a caller of the command line gives them; rows may differ in length when there is no mask. */
export interface InputIds {
  readonly inputIds: number[][]
  /** 1 for a token, 0 for a pad; of the same shape as `inputIds`. */
  readonly attentionMask?: number[][]
}

const MEMBERS = ['input_ids', 'attention_mask'] as const

/**
 * A reader for exactly `{"input_ids": [[…]], "attention_mask": [[…]]?}`. It builds nothing but the two lists of numbers,
 * so a hostile file costs at most a few times its own size.
 */
class InputIdsReader {
  #at = 0

  constructor(
    private readonly text: string,
    private readonly path: string,
  ) {}

  read(): InputIds {
    const found: { input_ids?: number[][]; attention_mask?: number[][] } = {}
    this.#expect('{')
    if (!this.#take('}')) {
      do {
        const name = this.#memberName()
        if (found[name] !== undefined) this.#fail(`each member once`, `"${name}" twice`)
        found[name] = this.#rows(name)
      } while (this.#take(','))
      this.#expect('}')
    }
    if (this.#peek() !== '') this.#fail('nothing after the object', JSON.stringify(this.#peek()))
    if (found.input_ids === undefined) this.#fail('a member "input_ids"', 'none')
    return { inputIds: found.input_ids!, ...(found.attention_mask === undefined ? {} : { attentionMask: found.attention_mask }) }
  }

  #memberName(): (typeof MEMBERS)[number] {
    this.#peek()
    for (const name of MEMBERS) {
      if (this.text.startsWith(`"${name}"`, this.#at)) {
        this.#at += name.length + 2
        this.#expect(':')
        return name
      }
    }
    return this.#fail('only the members "input_ids" and "attention_mask"', JSON.stringify(this.text.slice(this.#at, this.#at + 24)))
  }

  #rows(name: string): number[][] {
    const rows: number[][] = []
    this.#expect('[')
    do {
      const row: number[] = []
      this.#expect('[')
      do row.push(this.#whole())
      while (this.#take(','))
      this.#expect(']')
      rows.push(row)
    } while (this.#take(','))
    this.#expect(']')
    if (name === 'attention_mask' && rows.some((row) => row.some((value) => value > 1))) this.#fail('0 or 1 in "attention_mask"', 'another number')
    return rows
  }

  #whole(): number {
    this.#peek()
    const start = this.#at
    while (isDigit(this.text.charCodeAt(this.#at))) this.#at += 1
    const digits = this.text.slice(start, this.#at)
    if (digits === '' || /^0\d/.test(digits)) return this.#fail('a whole number of at least 0', JSON.stringify(this.text.slice(start, start + 12)))
    const value = Number(digits)
    if (value > 0x7fffffff) return this.#fail('a token id below 2^31', digits.slice(0, 24))
    return value
  }

  /** The next character that is not white space, not consumed; '' at the end. */
  #peek(): string {
    while (isSpace(this.text.charCodeAt(this.#at))) this.#at += 1
    return this.text.charAt(this.#at)
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at += 1
    return true
  }

  #expect(character: string): void {
    if (!this.#take(character)) this.#fail(`"${character}" at character ${this.#at}`, this.#peek() === '' ? 'the end of the file' : JSON.stringify(this.#peek()))
  }

  #fail(expected: string, received: string): never {
    throw invalid(this.path, expected, received)
  }
}

const isDigit = (code: number): boolean => code >= 0x30 && code <= 0x39
const isSpace = (code: number): boolean => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09

function invalid(path: string, expected: string, received: string): OctetError {
  return new OctetError('INVALID_JSON', {
    op: '--input-ids',
    argument: path,
    expected,
    received,
    hint: 'write {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]]}, the mask being optional',
  })
}

/** Parses the text of an `--input-ids` file. @throws OctetError `INVALID_JSON`. */
export function parseInputIds(text: string, path = 'input'): InputIds {
  const { inputIds, attentionMask } = new InputIdsReader(text, path).read()
  if (attentionMask === undefined) return { inputIds }
  if (attentionMask.length !== inputIds.length) throw invalid(path, `${inputIds.length} rows in "attention_mask"`, `${attentionMask.length}`)
  attentionMask.forEach((row, i) => {
    const length = inputIds[i]!.length
    if (row.length !== length) throw invalid(path, `${length} numbers in row ${i} of "attention_mask"`, `${row.length}`)
    if (!row.includes(1)) throw invalid(path, `a 1 in row ${i} of "attention_mask"`, 'a row of pads')
  })
  return { inputIds, attentionMask }
}

/**
 * Reads an `--input-ids` file of at most {@link MAX_INPUT_IDS_BYTES}.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_JSON`.
 */
export async function readInputIds(path: string): Promise<InputIds> {
  return parseInputIds(await readTextFile(path, MAX_INPUT_IDS_BYTES, '--input-ids'), path)
}
