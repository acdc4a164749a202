import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { version } from '../version.js'

/** A row with what a reader of the file needs to know about when and of what it is. `commit` is null outside a checkout. */
export async function stamped(row: object): Promise<object> {
  const commit = await promisify(execFile)('git', ['describe', '--always', '--dirty', '--abbrev=12'], { cwd: import.meta.dirname }).then(({ stdout }) => stdout.trim(), () => null)
  return { time: new Date().toISOString(), version, commit, ...row }
}
