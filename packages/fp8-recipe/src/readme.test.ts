import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))

it('the README example runs, with this package alone', { timeout: 60_000 }, () => {
  const code = /```js\n([\s\S]*?)```/.exec(readFileSync(`${root}README.md`, 'utf8'))?.[1] ?? ''
  // Inside the package, so that its own name resolves to its build.
  const file = `${root}dist/readme-example.mjs`
  writeFileSync(file, code)
  try {
    const lines = execFileSync(process.execPath, [file], { encoding: 'utf8' }).trim().split('\n')
    expect(lines).toEqual([
      'DelayedScaling true compute capability 9.0 multiplies FP8 in its tensor cores',
      'FP8 block scaling needs CUDA 12.9 or higher, and 12.8 was found',
      '149.3333282470703',
      '128',
      '64 0.015625',
      '1 Float8BlockScaling',
    ])
  } finally {
    rmSync(file)
  }
})
