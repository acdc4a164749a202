// The closing line of a whole CI run: tests and checks together, from the summaries that test.mjs and check.mjs left.
// A summary that is missing counts as a failure.
import { join } from 'node:path'
import { root } from './lib/proc.mjs'
import { closingLine } from './lib/summary.mjs'
import { readJson } from './lib/workspace.mjs'

const total = { passed: 0, failed: 0, skipped: 0 }
for (const name of ['test-summary.json', 'check-summary.json']) {
  let part = { passed: 0, failed: 1, skipped: 0 }
  try {
    part = readJson(join(root, '.cache', name))
  } catch {
    process.stdout.write(`.cache/${name} is missing: that part of the run did not finish\n`)
  }
  for (const key of Object.keys(total)) total[key] += part[key]
}
process.stdout.write(`${closingLine(total)}\n`)
process.exitCode = total.failed === 0 ? 0 : 1
