/** Threads, workers and exits, each in a child process that must neither crash nor hang. Runs the built package (dist). */
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const DEADLINE = 300_000

interface Ending {
  readonly code: number | null
  readonly signal: string | null
  readonly out: string
  readonly err: string
}

function child(script: string, args: readonly string[] = [], node: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const process_ = spawn(process.execPath, [...node, join(root, 'test/children', script), ...args], { env: { ...process.env, ...env } })
    let out = ''
    let err = ''
    process_.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()))
    process_.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()))
    const timer = setTimeout(() => process_.kill('SIGKILL'), DEADLINE)
    process_.on('error', reject)
    process_.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, out: out.trim(), err })
    })
  })
}

describe('worker threads', () => {
  it('two beside the main thread compute the same', async () => {
    const { code, out, err } = await child('two-workers.mjs')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    const sums = JSON.parse(out) as number[]
    expect(sums).toHaveLength(3)
    expect(sums[0]).toBeGreaterThan(0)
    expect(new Set(sums).size).toBe(1)
  })

  it('100 terminations in the middle of an op leave no crash and no thread', { timeout: DEADLINE + 5000 }, async () => {
    const { code, signal, out, err } = await child('terminate.mjs', ['100'])
    expect({ code, signal, err }).toEqual({ code: 0, signal: null, err: '' })
    const result = JSON.parse(out) as { rounds: number; busy: number; threadsLeft: number }
    expect(result.rounds).toBe(100)
    expect(result.busy).toBe(100)
    expect(result.threadsLeft).toBeLessThanOrEqual(1)
  })
})

it('60 terminations of worker threads while completions arrive leave the process alone', { timeout: DEADLINE + 5000 }, async () => {
  const { code, signal, out, err } = await child('terminate.mjs', ['60', './chatty-worker.mjs'])
  expect({ code, signal, err }).toEqual({ code: 0, signal: null, err: '' })
  expect((JSON.parse(out) as { busy: number }).busy).toBe(60)
})

describe('a process', () => {
  it.each([
    ['exit', 0, null],
    ['throw', 1, null],
    ['kill', null, 'SIGTERM'],
  ] as const)('that leaves by %s in the middle of an op ends at once', async (how, code, signal) => {
    const ending = await child('exit.mjs', [how])
    expect([ending.code, ending.signal, ending.out]).toEqual([code, signal, 'busy'])
  })

  it('lives until a pending read is done, and then ends by itself', async () => {
    expect(await child('alive.mjs')).toEqual({ code: 0, signal: null, out: `read ${512 * 2048}`, err: '' })
  })

  it('is warned once of leaked tensors, and never of freed ones', async () => {
    const { code, out } = await child('leak.mjs', [], ['--expose-gc'])
    expect(code).toBe(0)
    expect(JSON.parse(out)).toEqual({ clean: 0, warnings: 1 })
  })

  it('learns where a failed op was enqueued with OCTET_DEBUG=stacks', async () => {
    expect((await child('stacks.mjs', [], [], { OCTET_DEBUG: 'stacks' })).out).toContain('theCulprit')
    expect((await child('stacks.mjs')).out).toBe('no stack')
  })

  it('refuses a second copy of the package', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'octet-copy-'))
    try {
      cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
      cpSync(join(root, 'package.json'), join(folder, 'package.json'))
      cpSync(join(root, 'build/Release'), join(folder, 'build/Release'), { recursive: true })
      symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
      const { out } = await child('duplicate.mjs', [folder])
      expect(out).toContain('DUPLICATE_KERNELS')
      expect(out).toContain(folder)
      expect(out).toContain(root)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
