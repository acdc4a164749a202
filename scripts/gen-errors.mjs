// Writes docs/errors.md from core's registry of error codes.
//   node scripts/gen-errors.mjs [--check]      (after a build)
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ERROR_CODES } from '../packages/core/dist/codes.js'
import { root } from './lib/proc.mjs'

const path = join(root, 'docs', 'errors.md')
const text = `# Error codes

Every error that Octet throws on purpose is an \`OctetError\` with one of these codes; test with
\`OctetError.is(error, 'FILE_NOT_FOUND')\`. Codes are stable: removing or renaming one is a breaking change.
This page is generated from \`packages/core/src/codes.ts\` by \`scripts/gen-errors.mjs\`.

| Code | Meaning |
|---|---|
${Object.entries(ERROR_CODES).map(([code, meaning]) => `| \`${code}\` | ${meaning} |`).join('\n')}
`

if (process.argv.includes('--check')) {
  let current = ''
  try {
    current = readFileSync(path, 'utf8')
  } catch {
    // A missing file is as stale as a wrong one.
  }
  if (current !== text) {
    process.stdout.write('docs/errors.md is out of date: run node scripts/gen-errors.mjs\n')
    process.exitCode = 1
  } else {
    process.stdout.write('docs/errors.md is up to date\n')
  }
} else {
  writeFileSync(path, text)
}
