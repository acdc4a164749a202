import { extname } from 'node:path'
import { OctetError, type ChatMessage, type ErrorCode, type Tokenizer } from '@octet-llm/core'
import { readTextFile } from '../text-file.js'

/** The largest calibration file; a few hundred kB of text settle the scales of most models. */
export const MAX_CALIBRATION_BYTES = 64 * 2 ** 20
/** Characters that the tokenizer gets at once: it works under a deadline. */
const PIECE = 2 ** 19

const OP = 'calibrate'
const FORMS = 'a text, {"text": …}, {"messages": […]} or {"input_ids": […]}'

/** What turns a calibration file into token ids. */
export interface CalibrationReader {
  /** Null for a checkpoint without one: then only `input_ids` are read. */
  readonly tokenizer: Tokenizer | null
  readonly vocabSize: number
  /** Most tokens of a row; longer texts are cut, and every piece begins as the text does (with its bos). */
  readonly rowLength: number
  readonly signal?: AbortSignal | undefined
}

/**
 * Rows of token ids of a calibration file: a `.txt` is one text; a line of a `.jsonl` is a text, `{"text": …}`,
 * `{"messages": […]}` (through the chat template) or `{"input_ids": […]}`.
 * @throws OctetError `FILE_NOT_FOUND` (no file, or no tokenizer for text), `INVALID_JSON` naming the line,
 *   `INVALID_ARGUMENT` (another kind of file, one without a token, one too large), `INVALID_TEMPLATE`; the signal's reason
 */
export async function readCalibrationFile(path: string, reader: CalibrationReader): Promise<number[][]> {
  const kind = extname(path).toLowerCase()
  if (kind !== '.txt' && kind !== '.jsonl') throw refuse('INVALID_ARGUMENT', path, 'a .txt or a .jsonl file', kind === '' ? 'one without extension' : `a ${kind} file`)
  // Some editors begin a file with a byte-order mark.
  const content = (await readTextFile(path, MAX_CALIBRATION_BYTES, OP)).replace(/^\ufeff/, '')
  const texts = kind === '.txt' ? [new Row(path, path, content)] : linesOf(path, content)
  const rows: number[][] = []
  for (const row of texts) {
    reader.signal?.throwIfAborted()
    for (const piece of cut(await row.ids(reader), reader)) rows.push(piece)
  }
  if (rows.length === 0) throw refuse('INVALID_ARGUMENT', path, 'at least one token', content.trim() === '' ? 'an empty file' : 'none', 'pass a text like those that the model is used for')
  return rows
}

function* linesOf(path: string, content: string): Generator<Row> {
  let number = 0
  for (const line of content.split('\n')) {
    number += 1
    if (line.trim() === '') continue
    const place = `${path} line ${number}`
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      throw refuse('INVALID_JSON', place, `JSON: ${FORMS}`, JSON.stringify(line.trim().slice(0, 24)))
    }
    yield new Row(path, place, value)
  }
}

/** One text of a file, in any of the forms. */
class Row {
  constructor(
    private readonly path: string,
    /** The file, or the file and the line. */
    private readonly place: string,
    private readonly value: unknown,
  ) {}

  async ids(reader: CalibrationReader): Promise<number[]> {
    const { value } = this
    if (typeof value === 'string') return this.#encode(value, true, reader)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.#bad(value)
    const { text, messages, input_ids: ids } = value as Record<string, unknown>
    if ([text, messages, ids].filter((form) => form !== undefined).length !== 1) throw this.#bad(value)
    if (typeof text === 'string') return this.#encode(text, true, reader)
    if (messages !== undefined) return this.#encode(await this.#layOut(messages, reader), false, reader)
    if (!Array.isArray(ids)) throw this.#bad(value)
    const wrong = ids.find((id) => !Number.isInteger(id) || (id as number) < 0 || (id as number) >= reader.vocabSize) as unknown
    if (wrong !== undefined) throw refuse('INVALID_JSON', this.place, `token ids from 0 to ${reader.vocabSize - 1}`, JSON.stringify(wrong).slice(0, 24))
    return ids as number[]
  }

  async #layOut(messages: unknown, reader: CalibrationReader): Promise<string> {
    const isMessage = (message: unknown): message is ChatMessage =>
      typeof message === 'object' && message !== null && typeof (message as ChatMessage).role === 'string' && typeof (message as ChatMessage).content === 'string'
    if (!Array.isArray(messages) || messages.length === 0 || !messages.every(isMessage)) throw refuse('INVALID_JSON', this.place, 'messages of {"role": …, "content": …}', JSON.stringify(messages).slice(0, 24))
    const tokenizer = this.#tokenizer(reader)
    if (!tokenizer.hasChatTemplate) throw refuse('INVALID_TEMPLATE', this.place, 'a chat template in the checkpoint, for messages', 'none', 'write {"text": …}')
    try {
      return await tokenizer.applyChatTemplate(messages, { addGenerationPrompt: false })
    } catch (error) {
      if (!OctetError.is(error)) throw error
      throw new OctetError(error.code, { op: OP, argument: this.place, message: `[${OP}] ${this.place}: ${error.message}`, cause: error })
    }
  }

  /** A long text in pieces that end with a line. */
  async #encode(text: string, addSpecialTokens: boolean, reader: CalibrationReader): Promise<number[]> {
    // Spaces alone are no text to calibrate on.
    if (text.trim() === '') return []
    const tokenizer = this.#tokenizer(reader)
    const ids: number[] = []
    for (let begin = 0; begin < text.length; ) {
      reader.signal?.throwIfAborted()
      const end = endOfPiece(text, begin)
      for (const id of await tokenizer.encode(text.slice(begin, end), { addSpecialTokens: addSpecialTokens && begin === 0 })) ids.push(id)
      begin = end
    }
    return ids
  }

  #tokenizer({ tokenizer }: CalibrationReader): Tokenizer {
    if (tokenizer !== null) return tokenizer
    throw refuse('FILE_NOT_FOUND', this.path, 'a tokenizer.json beside the weights, for text', 'none', 'write lines of {"input_ids": […]}, or add the tokenizer files to the checkpoint')
  }

  #bad(value: unknown): OctetError {
    return refuse('INVALID_JSON', this.place, FORMS, JSON.stringify(value).slice(0, 40))
  }
}

function endOfPiece(text: string, begin: number): number {
  const limit = begin + PIECE
  if (limit >= text.length) return text.length
  const newline = text.lastIndexOf('\n', limit - 1)
  if (newline >= begin) return newline + 1
  // Not between the halves of a surrogate pair.
  return (text.charCodeAt(limit - 1) & 0xfc00) === 0xd800 ? limit - 1 : limit
}

/** Rows of at most `rowLength` ids; each piece of a text that begins with bos does. */
function cut(ids: readonly number[], { rowLength, tokenizer }: CalibrationReader): number[][] {
  if (ids.length === 0) return []
  if (ids.length <= rowLength) return [[...ids]]
  const bos = tokenizer?.special.bosTokenId ?? null
  const head = ids[0] === bos && rowLength > 1 ? [ids[0]] : []
  const rows: number[][] = []
  const step = rowLength - head.length
  for (let at = head.length; at < ids.length; at += step) rows.push([...head, ...ids.slice(at, at + step)])
  return rows
}

function refuse(code: ErrorCode, argument: string, expected: string, received: string, hint?: string): OctetError {
  return new OctetError(code, { op: OP, argument, expected, received, ...(hint === undefined ? {} : { hint }) })
}
