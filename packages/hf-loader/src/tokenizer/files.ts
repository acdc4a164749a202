import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { asObject, invalid, type JsonObject } from './json.js'

const MIB = 1024 * 1024
/** The largest tokenizer.json of Gemma and Llama is 34 MB; these bounds keep a hostile file from filling memory first. */
const MAX_TOKENIZER_BYTES = 256 * MIB
const MAX_CONFIG_BYTES = 16 * MIB
const MAX_TEMPLATE_BYTES = 4 * MIB

export interface TokenizerFiles {
  readonly tokenizer: JsonObject
  /** `tokenizer_config.json`, `{}` when absent. */
  readonly config: JsonObject
  /** `special_tokens_map.json`, `{}` when absent: read only for names that the config leaves out. */
  readonly specialMap: JsonObject
  /** `chat_template.jinja`, which overrides the config's `chat_template`; null when absent. */
  readonly template: string | null
}

/**
 * Reads what transformers' fast tokenizers read from a checkpoint folder.
 *
 * @throws OctetError `FILE_NOT_FOUND` without a tokenizer.json, `INVALID_TOKENIZER` for one that is too large, not UTF-8,
 *   not JSON or not an object.
 */
export function readTokenizerFiles(dir: string): TokenizerFiles {
  const tokenizer = readJson(dir, 'tokenizer.json', MAX_TOKENIZER_BYTES)
  if (tokenizer === null) {
    throw new OctetError('FILE_NOT_FOUND', {
      op: 'loadTokenizer',
      argument: join(dir, 'tokenizer.json'),
      expected: 'a file',
      received: 'nothing',
      hint: 'pass the folder that holds tokenizer.json; SentencePiece tokenizer.model alone is not read',
    })
  }
  return {
    tokenizer,
    config: readJson(dir, 'tokenizer_config.json', MAX_CONFIG_BYTES) ?? {},
    specialMap: readJson(dir, 'special_tokens_map.json', MAX_CONFIG_BYTES) ?? {},
    template: readText(dir, 'chat_template.jinja', MAX_TEMPLATE_BYTES),
  }
}

function readJson(dir: string, name: string, maxBytes: number): JsonObject | null {
  const text = readText(dir, name, maxBytes)
  if (text === null) return null
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new OctetError('INVALID_TOKENIZER', {
      op: 'loadTokenizer',
      argument: name,
      expected: 'JSON',
      received: error instanceof Error ? error.message : 'text that does not parse',
      hint: 'download the file again',
      cause: error,
    })
  }
  return asObject(value, name)
}

function readText(dir: string, name: string, maxBytes: number): string | null {
  const path = join(dir, name)
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return null
  // A FIFO or a device would block or never end.
  if (!stat.isFile()) throw invalid(name, 'a regular file', 'something else')
  if (stat.size > maxBytes) throw invalid(name, `at most ${maxBytes} bytes`, `${stat.size} bytes`)
  const bytes = readFileSync(path)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw invalid(name, 'UTF-8 text', 'bytes that are not UTF-8', 'download the file again')
  }
}
