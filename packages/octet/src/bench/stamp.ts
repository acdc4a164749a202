import { execFile } from 'node:child_process'
import { appendFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { version } from '../version.js'

/** A row with what a reader of the file needs to know about when and of what it is. `commit` is null outside a checkout. */
export async function stamped(row: object): Promise<object> {
  const commit = await promisify(execFile)('git', ['describe', '--always', '--dirty', '--abbrev=12'], { cwd: import.meta.dirname }).then(({ stdout }) => stdout.trim(), () => null)
  return { time: new Date().toISOString(), version, commit, ...row }
}

/** Appends rows, stamped, to a .jsonl file. */
export async function appendRows(file: string, rows: readonly object[]): Promise<void> {
  const whole = await Promise.all(rows.map(stamped))
  await appendFile(file, whole.map((row) => `${JSON.stringify(row)}\n`).join(''))
}
