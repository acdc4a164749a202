import { execFile } from 'node:child_process'
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { fixture, useTempFolder } from './testing/support.test-helper.js'

const temp = useTempFolder()
const root = fileURLToPath(new URL('..', import.meta.url))

it('every example of the README runs', async () => {
  const modules = temp.path('node_modules', '@octet-llm')
  await mkdir(modules, { recursive: true })
  await symlink(root, join(modules, 'hf-loader'))
  for (const name of ['fairy-gemma', 'fairy-llama', 'variants']) await symlink(fixture(name), temp.path(name))
  await symlink(fixture('variants/gemma2/model.safetensors'), temp.path('model.safetensors'))
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const examples = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map(([, code]) => code!)
  expect(examples.length).toBeGreaterThanOrEqual(6)
  for (const [i, code] of examples.entries()) {
    const path = temp.path(`example-${i}.mjs`)
    await writeFile(path, code)
    const { stdout } = await promisify(execFile)(process.execPath, [path], { cwd: temp.path() })
    expect(stdout.length, code).toBeGreaterThan(10)
  }
})
