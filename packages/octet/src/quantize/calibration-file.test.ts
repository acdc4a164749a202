import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OctetError, type Tokenizer } from '@octet-llm/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MAX_CALIBRATION_BYTES, readCalibrationFile } from './calibration-file.js'

let dir: string
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'octet-calibration-'))))
afterAll(() => rm(dir, { recursive: true, force: true }))

const BOS = 1

/** A token a character, its code; bos is 1. */
class Letters implements Partial<Tokenizer> {
  readonly special = { bosTokenId: BOS, eosTokenId: 2, padTokenId: 0, unkTokenId: null }
  readonly asked: string[] = []

  constructor(readonly hasChatTemplate = true) {}

  async encode(text: string, { addSpecialTokens = true } = {}): Promise<number[]> {
    this.asked.push(text)
    return [...(addSpecialTokens ? [BOS] : []), ...Array.from(text, (c) => c.codePointAt(0)!)]
  }

  async applyChatTemplate(messages: readonly { role: string; content: string }[], options?: { addGenerationPrompt?: boolean }): Promise<string> {
    if (messages[0]!.role === 'system') throw new OctetError('INVALID_TEMPLATE', { message: 'no system' })
    return `${messages.map(({ content }) => `<${content}>`).join('')}${options?.addGenerationPrompt === false ? '' : '!'}`
  }
}

async function read(name: string, content: string, { tokenizer = new Letters(), rowLength = 100, signal }: { tokenizer?: Letters | null; rowLength?: number; signal?: AbortSignal } = {}): Promise<number[][]> {
  const path = join(dir, name)
  await writeFile(path, content)
  return readCalibrationFile(path, { tokenizer: tokenizer as Tokenizer | null, vocabSize: 0x110000, rowLength, signal })
}

const codes = (text: string): number[] => Array.from(text, (c) => c.codePointAt(0)!)

describe('readCalibrationFile', () => {
  it('takes a text, and every form of a line', async () => {
    expect(await read('a.txt', 'ab\n')).toEqual([[BOS, ...codes('ab\n')]])
    expect(await read('A.TXT', 'ab')).toEqual([[BOS, ...codes('ab')]])
    const lines = ['"a"', '', '{"text": "b", "source": "x"}', '{"messages": [{"role": "user", "content": "c"}]}', '{"input_ids": [7, 8]}', '{"input_ids": []}', '""']
    expect(await read('a.jsonl', `${lines.join('\r\n')}\n`)).toEqual([[BOS, ...codes('a')], [BOS, ...codes('b')], codes('<c>'), [7, 8]])
    expect(await read('ids.jsonl', '{"input_ids": [7]}', { tokenizer: null })).toEqual([[7]])
  })

  it('cuts what is longer than a row, and begins each piece as the text', async () => {
    expect(await read('b.txt', 'abcde', { rowLength: 3 })).toEqual([[BOS, ...codes('ab')], [BOS, ...codes('cd')], [BOS, ...codes('e')]])
    expect(await read('b.txt', 'abc', { rowLength: 4 })).toEqual([[BOS, ...codes('abc')]])
    expect(await read('b.txt', 'ab', { rowLength: 1 })).toEqual([[BOS], codes('a'), codes('b')])
    expect(await read('b.jsonl', '{"input_ids": [5, 6, 7]}', { rowLength: 2 })).toEqual([[5, 6], [7]])
  })

  it('passes over a byte-order mark, and takes more rows than a call has arguments', async () => {
    expect(await read('bom.txt', '\ufeffab')).toEqual([[BOS, ...codes('ab')]])
    expect(await read('bom.jsonl', '\ufeff"a"\n"\ufeffb"')).toEqual([[BOS, ...codes('a')], [BOS, ...codes('\ufeffb')]])
    expect(await read('many.jsonl', JSON.stringify({ input_ids: new Array(200_000).fill(7) }), { rowLength: 1 })).toHaveLength(200_000)
  })

  it('gives the tokenizer a long text in pieces that end with a line, or between characters', async () => {
    const size = 2 ** 19
    const line = `${'x'.repeat(size - 10)}\n`
    const tokenizer = new Letters()
    const rows = await read('c.txt', `${line}${'y'.repeat(100)}`, { tokenizer, rowLength: 10 ** 9 })
    expect(tokenizer.asked.map((text) => text.length)).toEqual([line.length, 100])
    expect(rows).toHaveLength(1)
    expect(rows[0]!.length).toBe(1 + line.length + 100)
    const wide = new Letters()
    await read('d.txt', `${'x'.repeat(size - 1)}🐉z`, { tokenizer: wide, rowLength: 10 ** 9 })
    expect(wide.asked.map((text) => text.length)).toEqual([size - 1, 3])
  })

  it.each<[string, string, string, RegExp]>([
    ['empty.txt', '', 'INVALID_ARGUMENT', /empty\.txt: expected at least one token, received an empty file/],
    ['blank.txt', ' \n', 'INVALID_ARGUMENT', /an empty file/],
    ['blank.jsonl', '\n \n', 'INVALID_ARGUMENT', /an empty file/],
    ['nothing.jsonl', '""\n{"input_ids": []}', 'INVALID_ARGUMENT', /at least one token, received none/],
    ['broken.jsonl', '"one"\n\n{"text": "two"\n', 'INVALID_JSON', /broken\.jsonl line 3: expected JSON/],
    ['number.jsonl', '"one"\n7\n', 'INVALID_JSON', /number\.jsonl line 2: expected a text/],
    ['null.jsonl', 'null', 'INVALID_JSON', /line 1/],
    ['list.jsonl', '["a"]', 'INVALID_JSON', /line 1/],
    ['none.jsonl', '{"prompt": "a"}', 'INVALID_JSON', /line 1: expected a text/],
    ['two.jsonl', '{"text": "a", "input_ids": [1]}', 'INVALID_JSON', /line 1/],
    ['text.jsonl', '{"text": 3}', 'INVALID_JSON', /line 1/],
    ['ids.jsonl', '{"input_ids": "5"}', 'INVALID_JSON', /line 1/],
    ['range.jsonl', '{"input_ids": [1, 1114112]}', 'INVALID_JSON', /line 1: expected token ids from 0 to 1114111, received 1114112/],
    ['negative.jsonl', '{"input_ids": [-1]}', 'INVALID_JSON', /received -1/],
    ['half.jsonl', '{"input_ids": [1.5]}', 'INVALID_JSON', /received 1\.5/],
    ['chat.jsonl', '{"messages": [{"role": "user"}]}', 'INVALID_JSON', /line 1: expected messages of/],
    ['chats.jsonl', '{"messages": []}', 'INVALID_JSON', /line 1: expected messages of/],
    ['system.jsonl', '"a"\n{"messages": [{"role": "system", "content": "x"}]}', 'INVALID_TEMPLATE', /line 2: no system/],
    ['tale.md', 'text', 'INVALID_ARGUMENT', /a \.md file/],
    ['tale', 'text', 'INVALID_ARGUMENT', /without extension/],
  ])('refuses %s', async (name, content, code, message) => {
    await expect(read(name, content)).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string })
  })

  it('refuses text without a tokenizer, chats without a template, and files that are absent or too large', async () => {
    await expect(read('e.txt', 'text', { tokenizer: null })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', expected: expect.stringContaining('tokenizer.json') as string })
    await expect(read('e.jsonl', '{"messages": [{"role": "user", "content": "x"}]}', { tokenizer: new Letters(false) })).rejects.toMatchObject({ code: 'INVALID_TEMPLATE' })
    await expect(readCalibrationFile(join(dir, 'absent.txt'), { tokenizer: null, vocabSize: 9, rowLength: 9 })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
    await writeFile(join(dir, 'large.txt'), '')
    await truncate(join(dir, 'large.txt'), MAX_CALIBRATION_BYTES + 1)
    await expect(readCalibrationFile(join(dir, 'large.txt'), { tokenizer: null, vocabSize: 9, rowLength: 9 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    const reason = new Error('enough')
    await expect(read('f.txt', 'text', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  })
})
