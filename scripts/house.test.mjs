import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { layerBreaches } from './check-layers.mjs'
import { faultsOf } from './check-te-table.mjs'
import { root } from './lib/proc.mjs'
import { closingLine, summarise } from './lib/summary.mjs'
import { nodeProblem } from './lib/toolchain.mjs'
import { libraryPackages, walk } from './lib/workspace.mjs'

const script = (name, ...args) => execFileSync(process.execPath, [join(root, 'scripts', name), ...args], { encoding: 'utf8' })

describe('layers', () => {
  let base
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'octet-layers-'))
    cpSync(join(root, 'layers.json'), join(base, 'layers.json'))
    for (const pkg of libraryPackages()) {
      const filter = (path) => !/\/(dist|node_modules|native|build)$/.test(path)
      cpSync(pkg.dir, join(base, 'packages', pkg.folder), { recursive: true, filter })
    }
  })
  afterEach(() => rmSync(base, { recursive: true, force: true }))

  const plant = (path, text) => {
    mkdirSync(join(base, 'packages', path, '..'), { recursive: true })
    writeFileSync(join(base, 'packages', path), text)
  }

  it('finds nothing in this repository', () => {
    expect(layerBreaches(root)).toEqual([])
  })

  it.each([
    ['a sibling above', 'kv-cache/src/planted.ts', "import { x } from '@octet-llm/transformer'\nexport const y = x\n", 'is not declared'],
    ['a dynamic import of a stranger', 'core/src/planted.ts', "export const y = () => import('left-pad')\n", 'is not declared'],
    ['a type of a stranger', 'core/src/planted.ts', "import type { X } from 'left-pad'\nexport type Y = X\n", 'is not declared'],
    ['a path out of the package', 'core/src/planted.ts', "export * from '../../kernels/src/index.js'\n", 'leaves the package'],
    ['a builtin without node:', 'core/src/planted.ts', "import { readFileSync } from 'fs'\nexport const y = readFileSync\n", 'write "node:fs"'],
    ['a private path of a sibling', 'kv-cache/src/planted.ts', "export * from '@octet-llm/core/dist/shape.js'\n", 'is not an entry point'],
    ['a devDependency in a source', 'core/src/planted.ts', "export * from 'vitest'\n", 'is not declared'],
  ])('finds %s', (_, path, text, message) => {
    plant(path, text)
    expect(layerBreaches(base).filter((breach) => breach.includes(message) && breach.includes('planted.ts'))).toHaveLength(1)
  })

  it('lets a test use a devDependency', () => {
    plant('core/src/planted.test.ts', "import { it } from 'vitest'\nit('x', () => {})\n")
    expect(layerBreaches(base)).toEqual(layerBreaches(root))
  })

  it('follows a subpath through its files', () => {
    plant('hf-loader/src/config/planted.ts', "export * from '@huggingface/jinja'\n")
    writeFileSync(join(base, 'packages/hf-loader/src/config/index.ts'), "export * from './planted.js'\n", { flag: 'a' })
    expect(layerBreaches(base)).toContainEqual(expect.stringContaining('@octet-llm/hf-loader/config: reaches "@huggingface/jinja"'))
  })

  it('refuses a sibling range that is not exact, and one that is upward', () => {
    const path = join(base, 'packages/core/package.json')
    const manifest = JSON.parse(readFileSync(path, 'utf8'))
    writeFileSync(path, JSON.stringify({ ...manifest, dependencies: { '@octet-llm/kernels': 'workspace:^' } }))
    const breaches = layerBreaches(base)
    expect(breaches).toContainEqual(expect.stringContaining('must be "workspace:*"'))
    expect(breaches).toContainEqual(expect.stringContaining('is not below this layer'))
  })
})

describe('the closing line', () => {
  const test = (status, fullName = 'a test') => ({ status, fullName })
  const report = (assertionResults, more = {}) => ({ success: true, testResults: [{ name: 'a.test.ts', status: 'passed', message: '', assertionResults, ...more }] })
  const allowed = { count: 1, reason: 'no GPU' }

  it('counts', () => {
    const summary = summarise(report([test('passed'), test('passed'), test('failed')]), allowed)
    expect(summary).toMatchObject({ passed: 2, failed: 1, skipped: 0 })
    expect(closingLine(summary)).toBe('2 passed, 1 failed, 0 skipped')
  })

  it('counts a file that does not load as a failure', () => {
    expect(summarise(report([test('passed')], { status: 'failed', message: 'no such module' }), allowed)).toMatchObject({ failed: 1 })
  })

  it('lets the stated number of CUDA cases skip and nothing else', () => {
    expect(summarise(report([test('passed'), test('skipped', 'gemm CUDA sm90')]), allowed)).toMatchObject({ passed: 1, failed: 0, skipped: 1 })
    expect(summarise(report([test('passed'), test('skipped', 'gemm cpu')]), allowed)).toMatchObject({ failed: 1, skipped: 1 })
    expect(summarise(report([test('passed'), test('pending', 'CUDA a'), test('todo', 'CUDA b')]), allowed)).toMatchObject({ failed: 1, skipped: 2 })
  })

  it('is not fooled by a run without tests or a failure outside them', () => {
    expect(summarise({ success: true, testResults: [] }, allowed).failed).toBe(1)
    expect(summarise({ ...report([test('passed')]), success: false }, allowed).failed).toBe(1)
  })
})

describe('the tool chain', () => {
  it('names a Node that is too old', () => {
    expect(nodeProblem('18.20.0')).toMatch(/Node 18\.20\.0 is too old/)
    expect(nodeProblem('20.18.3')).toMatch(/too old/)
    expect(nodeProblem('20.19.0')).toBeNull()
    expect(nodeProblem('24.0.0')).toBeNull()
  })

  it.each([
    ['cmake', /CMake is not installed/],
    ['c++ g++ clang++', /No C\+\+ compiler/],
  ])('says in one sentence that %s is missing', (names, message) => {
    const bin = mkdtempSync(join(tmpdir(), 'octet-bin-'))
    try {
      // A PATH with only stubs for what is not under test.
      if (names !== 'cmake') writeFileSync(join(bin, 'cmake'), '#!/bin/sh\necho cmake version 3.30.0\n', { mode: 0o755 })
      const code = `import { toolchainProblem } from ${JSON.stringify(join(root, 'scripts/lib/toolchain.mjs'))}; console.log(await toolchainProblem())`
      const { CXX: _, ...env } = process.env
      const out = execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8', env: { ...env, PATH: bin } })
      expect(out).toMatch(message)
      expect(out.trim().split('\n')).toHaveLength(1)
    } finally {
      rmSync(bin, { recursive: true, force: true })
    }
  })
})

describe('the documentation', () => {
  it('lists every error code', () => {
    expect(script('gen-errors.mjs', '--check')).toContain('up to date')
  })

  it('shows the code of the examples', () => {
    expect(script('snippets.mjs', '--check')).toContain('equal')
  })
})

describe('the table from TransformerEngine', () => {
  const page = readFileSync(join(root, 'docs/from-transformer-engine.md'), 'utf8')
  const faults = (text) => faultsOf(text, join(root, 'docs'))

  it('names a test that exists in every row', () => {
    expect(faults(page)).toEqual([])
  })

  it.each([
    ['a title that no test has', (text) => text.replace('“1: batch 1 works”', '“1: batch 1 works well”'), /has no test “1: batch 1 works well”/],
    ['a title that is only part of one', (text) => text.replace('“3: any pad id”', '“3: any pad”'), /has no test “3: any pad”/],
    ['a file that is not there', (text) => text.replace('(../packages/models-gemma/src/layer.test.ts)', '(../packages/models-gemma/src/layers.test.ts)'), /layers\.test\.ts does not exist/],
    ['a row without a test', (text) => text.replace(/(\| `record`.*\|) \[`.*\|/, '$1 tested |'), /names no test/],
    ['a name without a row', (text) => text.replace(/^\| `_padding_to_end`.*\n/m, ''), /_padding_to_end has no row/],
  ])('finds %s', (_, edit, message) => {
    expect(edit(page)).not.toBe(page)
    expect(faults(edit(page)).join('\n')).toMatch(message)
  })
})

describe('the error registry', () => {
  const codes = [...readFileSync(join(root, 'packages/core/src/codes.ts'), 'utf8').matchAll(/^ {2}([A-Z][A-Z0-9_]+): '/gm)].map((match) => match[1])
  const sources = walk(join(root, 'packages'), (path) => /\/src\/.*\.ts$/.test(path) && !path.endsWith('core/src/codes.ts'))
  const mentions = (files, code) => files.filter((path) => new RegExp(`['"\`]${code}['"\`]`).test(readFileSync(path, 'utf8')))

  it('reads the registry', () => {
    expect(codes.length).toBeGreaterThan(30)
  })

  it.each(codes)('%s is thrown somewhere and a test provokes it', (code) => {
    expect(mentions(sources.filter((path) => !path.includes('.test.')), code), 'no source throws it').not.toEqual([])
    expect(mentions(sources.filter((path) => path.includes('.test.')), code), 'no test expects it').not.toEqual([])
  })
})

describe('the repository', () => {
  it('has a lockfile that names no registry', () => {
    expect(readFileSync(join(root, 'pnpm-lock.yaml'), 'utf8')).not.toMatch(/https?:\/\//)
  })

  it('has an executable CI script that needs no terminal', () => {
    expect(existsSync(join(root, '.ci/run'))).toBe(true)
    execFileSync('bash', ['-n', join(root, '.ci/run')])
    execFileSync('test', ['-x', join(root, '.ci/run')])
  })
})
