// Runs every example in the folder that holds the fixtures, where `./fairy-gemma` is a checkpoint.
//   node scripts/run-examples.mjs [NAME…]
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { elapsed, root, run } from './lib/proc.mjs'

const wanted = process.argv.slice(2)
const names = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.mjs') && (wanted.length === 0 || wanted.includes(name)))
let failed = 0
for (const name of names) {
  const start = performance.now()
  const { code, stdout, stderr } = await run(process.execPath, [join(root, 'examples', name)], { cwd: join(root, 'fixtures'), timeoutMs: 120_000 })
  const silent = stdout.trim() === ''
  if (code === 0 && !silent) {
    process.stdout.write(`  ${name} (${elapsed(start)})\n`)
    continue
  }
  failed += 1
  process.stdout.write(`  ${name}: ${silent && code === 0 ? 'printed nothing' : `ended with ${code}`}\n${stdout}${stderr}\n`)
}
process.stdout.write(`examples: ${names.length - failed} of ${names.length} run\n`)
process.exitCode = failed === 0 && names.length > 0 ? 0 : 1
