// pnpm check: everything about the house that is not a test. Each step is a command that can be run alone.
//   node scripts/check.mjs [--fast] [--node 22,24]
// --fast leaves out what packs tarballs; --node runs the packed installs with these versions of Node too.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { elapsed, root, run } from './lib/proc.mjs'

const node = (...args) => [process.execPath, args]
const tsc = join('node_modules', 'typescript', 'bin', 'tsc')
const STEPS = [
  ['types', node(tsc, '-b', '--pretty', 'false')],
  ['lint', [join(root, 'node_modules', '.bin', 'oxlint'), ['--deny-warnings']]],
  ['layers', node('scripts/check-layers.mjs')],
  ['house', node('scripts/check-house.mjs')],
  ['error codes page', node('scripts/gen-errors.mjs', '--check')],
  ['public types snapshot', node('scripts/gen-api.mjs', '--check')],
  ['snippets', node('scripts/snippets.mjs', '--check')],
  ['table from TransformerEngine', node('scripts/check-te-table.mjs')],
  ['imports', node('scripts/check-imports.mjs')],
  ['examples', node('scripts/run-examples.mjs')],
]
const nodeFlag = process.argv.indexOf('--node')
const nodes = nodeFlag < 0 ? [] : ['--node', process.argv[nodeFlag + 1]]
const PACKED = [
  ['exports', node('scripts/check-exports.mjs')],
  ['packed installs', node('scripts/packed-install.mjs', ...nodes)],
]

const cache = join(root, '.cache')
rmSync(join(cache, 'check-summary.json'), { force: true })
const start = performance.now()
const summary = { passed: 0, failed: 0, skipped: 0 }
for (const [title, [command, args]] of process.argv.includes('--fast') ? STEPS : [...STEPS, ...PACKED]) {
  const begin = performance.now()
  const { code, stdout, stderr } = await run(command, args)
  const good = code === 0
  summary[good ? 'passed' : 'failed'] += 1
  process.stdout.write(`${good ? 'ok  ' : 'FAIL'} ${title} (${elapsed(begin)})\n`)
  if (!good) process.stdout.write(`${stdout}${stderr}\n`)
}
mkdirSync(cache, { recursive: true })
writeFileSync(join(cache, 'check-summary.json'), JSON.stringify(summary))
process.stdout.write(`checks: ${summary.passed} in order, ${summary.failed} not (${elapsed(start)})\n`)
process.exitCode = summary.failed === 0 ? 0 : 1
