// npm test: builds everything, checks the layers, runs every project's tests, and ends with one line,
// `N passed, N failed, N skipped`.
//   npm test                     the fast tier
//   npm test -- --project core   further arguments go to vitest
//   npm run test:all             full-count fuzzing, load tests and packed installs too
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from './lib/build.mjs'
import { elapsed, root, run } from './lib/proc.mjs'
import { closingLine, summarise } from './lib/summary.mjs'
import { nodeProblem } from './lib/toolchain.mjs'
import { readJson } from './lib/workspace.mjs'

const say = (line) => process.stdout.write(`${line}\n`)
const args = process.argv.slice(2).filter((arg) => arg !== '--')
const all = args.includes('--all')
const vitestArgs = args.filter((arg) => arg !== '--all')
const cache = join(root, '.cache')

function finish(summary) {
  mkdirSync(cache, { recursive: true })
  writeFileSync(join(cache, 'test-summary.json'), JSON.stringify(summary))
  for (const problem of summary.problems) say(problem)
  say(closingLine(summary))
  process.exit(summary.failed === 0 ? 0 : 1)
}

async function vitest() {
  const report = join(cache, 'vitest.json')
  rmSync(report, { force: true })
  const env = all ? { OCTET_FULL: '1', OCTET_SLOW: '1', OCTET_FUZZ_CASES: process.env.OCTET_FUZZ_CASES ?? '10000' } : {}
  const { code } = await run(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...vitestArgs],
    { inherit: true, env },
  )
  let summary
  try {
    summary = summarise(JSON.parse(readFileSync(report, 'utf8')), readJson(join(root, 'scripts', 'skips.json')))
  } catch (error) {
    summary = { passed: 0, failed: 1, skipped: 0, problems: [`vitest left no report: ${error.message}`] }
  }
  if (code !== 0 && summary.failed === 0) {
    summary.failed = 1
    summary.problems.push(`vitest ended with ${code}`)
  }
  return summary
}

/** Runs one of our scripts and counts it as one test. */
async function also(summary, script) {
  const { code } = await run(process.execPath, [join('scripts', script)], { inherit: true })
  if (code === 0) {
    summary.passed += 1
  } else {
    summary.failed += 1
    summary.problems.push(`scripts/${script} failed`)
  }
}

rmSync(join(cache, 'test-summary.json'), { force: true })
const start = performance.now()
try {
  const tooOld = nodeProblem()
  if (tooOld !== null) throw new Error(tooOld)
  await build(say)
} catch (error) {
  finish({ passed: 0, failed: 1, skipped: 0, problems: [error.message] })
}
const summary = await vitest()
if (vitestArgs.length === 0) await also(summary, 'check-layers.mjs')
if (all) await also(summary, 'packed-install.mjs')
say(`all in ${elapsed(start)}`)
finish(summary)
