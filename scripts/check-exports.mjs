// publint and attw (ESM only) over every packed tarball, and what must and must not lie in one.
//   node scripts/check-exports.mjs
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packAll } from './lib/pack.mjs'
import { mustRun, root, run } from './lib/proc.mjs'
import { libraryPackages } from './lib/workspace.mjs'

const work = mkdtempSync(join(tmpdir(), 'octet-exports-'))
const bin = (name) => join(root, 'node_modules', '.bin', name)
let failed = 0
try {
  const tarballs = await packAll(work)
  for (const pkg of libraryPackages()) {
    const tarball = tarballs.get(pkg.name)
    const files = (await mustRun('tar', ['tzf', tarball])).trim().split('\n').map((name) => name.replace(/^package\//, ''))
    const stray = files.filter((name) => /(^|\/)[^/]*\.test[.-]|tsbuildinfo|(^|\/)testing\//.test(name))
    const lacking = ['LICENSE', 'README.md', 'package.json'].filter((name) => !files.includes(name))
    if (stray.length + lacking.length > 0) {
      failed += 1
      process.stdout.write(`${pkg.name}: ${stray.length > 0 ? `packs ${stray.join(', ')}` : ''} ${lacking.length > 0 ? `lacks ${lacking.join(', ')}` : ''}\n`)
    }
    const results = [
      await run(bin('publint'), ['run', tarball, '--strict']),
      await run(bin('attw'), [tarball, '--profile', 'esm-only', '--no-emoji']),
    ]
    for (const { code, stdout, stderr } of results) {
      if (code === 0) continue
      failed += 1
      process.stdout.write(`${pkg.name}:\n${stdout}${stderr}\n`)
    }
  }
} finally {
  rmSync(work, { recursive: true, force: true })
}
process.stdout.write(failed === 0 ? 'exports: publint and attw are content\n' : `exports: ${failed} complaints\n`)
process.exitCode = failed === 0 ? 0 : 1
