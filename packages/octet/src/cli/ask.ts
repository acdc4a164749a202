import { createInterface } from 'node:readline/promises'
import { OctetError } from '@octet-llm/core'
import type { PullPlan } from '@octet-llm/hf-loader/hub'
import type { Context } from './context.js'
import { formatBytes } from './table.js'

/**
 * States the size of a download and asks a person whether to go on. Without a terminal to ask on, only `--yes` goes on.
 * @throws OctetError `USAGE` where nobody can be asked
 */
export function askBeforePull(yes: boolean, { stdin, stderr, output, signal }: Context): (plan: PullPlan) => Promise<boolean> {
  return async ({ id, files, downloadBytes }) => {
    const what = `${id}: ${formatBytes(downloadBytes)} in ${files.length} files`
    if (yes) {
      output.note(`downloading ${what}`)
      return true
    }
    if (stdin.isTTY !== true || !output.interactive) {
      throw new OctetError('USAGE', { message: `${what} would be downloaded; add --yes to do so`, hint: 'add --yes' })
    }
    const terminal = createInterface({ input: stdin, output: stderr })
    try {
      return /^y(es)?$/i.test((await terminal.question(`Download ${what}? [y/N] `, { signal })).trim())
    } finally {
      terminal.close()
    }
  }
}
