import { readFile, stat } from 'node:fs/promises'
import { OctetError } from '@octet-llm/core'

/**
 * The text of a regular file of at most `maxBytes`.
 * @throws OctetError `FILE_NOT_FOUND` when it is absent or no file, `INVALID_ARGUMENT` when it is larger.
 */
export async function readTextFile(path: string, maxBytes: number, op: string): Promise<string> {
  try {
    const info = await stat(path)
    if (!info.isFile()) throw new OctetError('FILE_NOT_FOUND', { op, argument: path, expected: 'a regular file', received: 'something else' })
    if (info.size > maxBytes) throw new OctetError('INVALID_ARGUMENT', { op, argument: path, expected: `at most ${maxBytes} bytes`, received: `${info.size} bytes` })
    return await readFile(path, 'utf8')
  } catch (cause) {
    if (OctetError.is(cause)) throw cause
    const received = (cause as NodeJS.ErrnoException).code ?? String(cause)
    throw new OctetError('FILE_NOT_FOUND', { op, argument: path, expected: 'a file that can be read', received, hint: 'check the path and its permissions', cause })
  }
}
