// Keeps the code in the documentation equal to examples that CI runs. A fence below `<!-- example: NAME -->` holds the
// part of examples/NAME between `// #region snippet` and `// #endregion` (the whole file where there is none).
//   node scripts/snippets.mjs [--check]
import { readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { root } from './lib/proc.mjs'
import { walk } from './lib/workspace.mjs'

const MARKED_FENCE = /<!-- example: (\S+) -->\n```(\w+)\n[\s\S]*?```/g

function snippet(name) {
  const text = readFileSync(join(root, 'examples', name), 'utf8')
  const region = /\/\/ #region snippet\n([\s\S]*?)\/\/ #endregion/.exec(text)
  return (region?.[1] ?? text).trimEnd()
}

const documents = ['README.md', ...walk(join(root, 'docs'), (path) => path.endsWith('.md')).map((path) => relative(root, path)), ...walk(join(root, 'packages'), (path) => path.endsWith('/README.md')).map((path) => relative(root, path))]
let stale = 0
for (const document of documents) {
  const path = join(root, document)
  const before = readFileSync(path, 'utf8')
  const after = before.replaceAll(MARKED_FENCE, (_, name, language) => `<!-- example: ${name} -->\n\`\`\`${language}\n${snippet(name)}\n\`\`\``)
  if (before === after) continue
  if (process.argv.includes('--check')) {
    stale += 1
    process.stdout.write(`${document}: a snippet differs from its example: run node scripts/snippets.mjs\n`)
  } else {
    writeFileSync(path, after)
  }
}
if (process.argv.includes('--check') && stale === 0) process.stdout.write('snippets equal their examples\n')
process.exitCode = stale === 0 ? 0 : 1
