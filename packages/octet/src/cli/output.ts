import { OctetError } from '@octet-llm/core'

/** Where a command writes: results on stdout, progress and notes on stderr. */
export interface Output {
  /** Results. Resolves when the terminal, pipe or file has taken the text, so a slow reader slows the writer. */
  write(text: string): Promise<void>
  /** One JSON object with its `schemaVersion`. */
  json(value: object): Promise<void>
  /** A line for the person who looks on; nothing with `--json` or `--quiet`. */
  note(line: string): void
  /** Whether a person looks at stderr: only then is progress drawn. */
  readonly interactive: boolean
}

/** Version of every object that `--json` prints. */
export const SCHEMA_VERSION = 1

/** Raised when the reader of stdout went away: the command ends quietly. */
export class ReaderGone extends Error {}

export function createOutput(stdout: NodeJS.WriteStream, stderr: NodeJS.WriteStream, json: boolean): Output {
  let gone = false
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    gone = true
  })
  // A closed stderr must not end a command that still delivers its result.
  stderr.on('error', () => {})
  const write = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      if (gone) return reject(new ReaderGone())
      stdout.write(text, (error) => {
        if (error === null || error === undefined) return resolve()
        gone = (error as NodeJS.ErrnoException).code === 'EPIPE'
        reject(gone ? new ReaderGone() : new OctetError('FILE_WRITE_FAILED', { op: 'stdout', message: `stdout cannot be written: ${error.message}`, cause: error }))
      })
    })
  return {
    write,
    json: (value) => write(`${JSON.stringify({ schemaVersion: SCHEMA_VERSION, ...value })}\n`),
    note: (line) => {
      if (!json) stderr.write(`${line}\n`)
    },
    interactive: stderr.isTTY === true && !json,
  }
}
