// The rules that no other tool knows: nothing promised instead of done, no skipped tests, every package complete, every
// link of the documentation leading somewhere. Length limits are soft: they are reported and do not fail.
//   node scripts/check-house.mjs
import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { mustRun, root } from './lib/proc.mjs'
import { libraryPackages } from './lib/workspace.mjs'

const SOURCE = /\.(ts|mts|mjs|js|cc|cu|cuh|h|hpp)$/
const SELF = ['scripts/check-house.mjs', 'scripts/house.test.mjs']
const RULES = [
  { files: SOURCE, pattern: /\b(TO-?DO|FIX-?ME|X{3})\b|not[ -]implemented|Not-?Implemented/, say: 'promises work instead of doing it' },
  { files: /\.ts$|\.test\.mjs$/, pattern: /\b(it|test|describe|suite)\.(skip|only|todo)\(/, say: 'skips or focuses a test' },
  { files: /./, pattern: /https?:\/\/(registry|deb|files|index)\.[a-z]/, say: 'names a package registry' },
]
const LIMITS = [[/\.(ts|mjs)$/, 300], [/\.(cu|cc|cuh|h)$/, 500]]
const MAX_BYTES = 4 * 1024 * 1024

const faults = []
const notes = []

function checkText(path, text) {
  const lines = text.split('\n')
  for (const { files, pattern, say } of RULES) {
    if (!files.test(path) || SELF.includes(path)) continue
    lines.forEach((line, i) => {
      if (pattern.test(line)) faults.push(`${path}:${i + 1}: ${say}: ${line.trim().slice(0, 100)}`)
    })
  }
  const limit = LIMITS.find(([files]) => files.test(path))?.[1]
  if (limit !== undefined && lines.length - 1 > limit && !path.includes('.test.')) notes.push(`${path}: ${lines.length - 1} lines (soft limit ${limit})`)
}

/** Relative links of a Markdown file must lead to something. */
function checkLinks(path, text) {
  for (const [, target] of text.matchAll(/\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)/g)) {
    if (!existsSync(resolve(root, dirname(path), target))) faults.push(`${path}: links to ${target}, which does not exist`)
  }
}

function checkPackage(pkg) {
  const at = `packages/${pkg.folder}`
  for (const file of ['LICENSE', 'README.md']) if (!existsSync(join(pkg.dir, file))) faults.push(`${at}: has no ${file}`)
  if (!existsSync(join(root, 'docs', 'guide', `${pkg.folder}.md`))) faults.push(`${at}: has no docs/guide/${pkg.folder}.md`)
  const { manifest } = pkg
  if (manifest.license !== 'Apache-2.0') faults.push(`${at}: license must be Apache-2.0`)
  if (manifest.type !== 'module') faults.push(`${at}: type must be module`)
  if (manifest.engines?.node !== '>=20.19') faults.push(`${at}: engines.node must be >=20.19`)
  if (manifest.exports['./package.json'] === undefined) faults.push(`${at}: must export ./package.json`)
  if (manifest.publishConfig?.access !== 'public') faults.push(`${at}: publishConfig.access must be public`)
  for (const script of ['preinstall', 'install', 'postinstall', 'prepare']) if (manifest.scripts?.[script] !== undefined) faults.push(`${at}: must not have a ${script} script`)
  for (const target of Object.values(manifest.exports)) {
    if (typeof target === 'object' && Object.keys(target)[0] !== 'types') faults.push(`${at}: every export names types first`)
  }
}

for (const path of (await mustRun('git', ['ls-files', '-z', '--cached', '--ignored', '--exclude-standard'])).split('\0').filter((path) => path !== '')) {
  faults.push(`${path}: .gitignore leaves it out, yet it is tracked`)
}
const tracked = (await mustRun('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'])).split('\0').filter((path) => path !== '' && existsSync(join(root, path)))
for (const path of tracked) {
  const { size } = statSync(join(root, path))
  if (size > MAX_BYTES) faults.push(`${path}: ${(size / 1e6).toFixed(1)} MB; nothing tracked may pass 4 MB`)
  if (/\.(safetensors|bin|png|node)$/.test(path)) continue
  const text = readFileSync(join(root, path), 'utf8')
  checkText(path, text)
  if (path.endsWith('.md')) checkLinks(path, text)
}
for (const pkg of libraryPackages()) checkPackage(pkg)

for (const note of notes) process.stdout.write(`note: ${note}\n`)
for (const fault of faults) process.stdout.write(`${fault}\n`)
process.stdout.write(faults.length === 0 ? 'house: in order\n' : `house: ${faults.length} faults\n`)
process.exitCode = faults.length === 0 ? 0 : 1
