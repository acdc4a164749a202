import { OctetError } from '@octet-llm/core'
import { JsonReader, JsonSyntaxError } from './json-reader.js'
import { RegularFile } from './regular-file.js'

/** A parsed JSON object. Read members through {@link member}: a file may name them `__proto__` or `constructor`. */
export type JsonObject = Readonly<Record<string, unknown>>

const MAX_DEPTH = 64

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** An own member, never one of Object.prototype. */
export function member(object: JsonObject, key: string): unknown {
  return Object.hasOwn(object, key) ? object[key] : undefined
}

/**
 * The bytes of a whole file that may hold at most `maxBytes`.
 * @throws OctetError `FILE_NOT_FOUND`; `INVALID_JSON` when it is larger.
 */
export async function readSmallFile(path: string, maxBytes: number, op: string, signal?: AbortSignal): Promise<Buffer> {
  const file = await RegularFile.open(path, op)
  try {
    if (file.size > maxBytes) {
      throw invalidJson(op, path, `at most ${maxBytes} bytes`, `${file.size} bytes`)
    }
    return await file.read(0, file.size, signal)
  } finally {
    await file.close()
  }
}

/**
 * Reads a JSON file whose root is an object. `maxBytes` bounds the heap that `JSON.parse` can take (about 50 times the
 * text at worst); nesting is bounded too.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_JSON`.
 */
export async function readJsonObject(
  path: string,
  options: { op: string; maxBytes: number; signal?: AbortSignal | undefined },
): Promise<JsonObject> {
  const bytes = await readSmallFile(path, options.maxBytes, options.op, options.signal)
  let value: unknown
  try {
    const reader = new JsonReader(bytes, MAX_DEPTH)
    reader.skipValue()
    reader.end()
    value = JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    if (!(error instanceof JsonSyntaxError) && !(error instanceof SyntaxError)) throw error
    throw invalidJson(options.op, path, 'JSON', error.message)
  }
  if (!isJsonObject(value)) throw invalidJson(options.op, path, 'a JSON object', Array.isArray(value) ? 'an array' : typeof value)
  return value
}

export function invalidJson(op: string, path: string, expected: string, received: string): OctetError {
  return new OctetError('INVALID_JSON', {
    op,
    argument: path,
    expected,
    received,
    hint: 'the file may be damaged; fetch it again',
  })
}
