// `octet quantize`: what it writes computes as the source does, and is whole or absent whatever happens.
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice } from '@octet-llm/kernels'
import { loadModel } from '../load-model.js'
import { RECIPE_STATE_FILE } from '../quantize/quantize-checkpoint.js'
import { fixture, jsonOf, octet, type CliResult } from '../testing/cli.test-helper.js'
import { Random } from '../testing/mutate.test-helper.js'

const TALE = 'Once upon a time there lived a king who had three daughters. The youngest went into the wood, and the old witch said to her: give me your golden ring.\n'

let dir: string
let text: string
let ids: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'octet-quantize-'))
  text = join(dir, 'tale.txt')
  await writeFile(text, TALE.repeat(3))
  ids = join(dir, 'ids.json')
  await writeFile(ids, JSON.stringify({ input_ids: [[2, 17, 99, 203, 45, 8, 77], [2, 31, 12, 45, 9, 30, 5]] }))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

let outputs = 0
const fresh = (): string => join(dir, `out-${outputs++}`)
const code = (result: CliResult): unknown => (jsonOf(result)['error'] as { code: string } | undefined)?.code

/** Tokens of a run, or the bytes of the logits that it writes. */
async function tokens(...args: string[]): Promise<unknown> {
  const result = await octet(['generate', '--input-ids', ids, '--max-new-tokens', '24', '--ignore-eos', '--json', ...args])
  expect(result.stderr + (result.status === 0 ? '' : result.stdout)).toBe('')
  return jsonOf(result)['sequences']
}
async function logits(...args: string[]): Promise<Buffer> {
  const path = join(dir, 'logits.safetensors')
  const result = await octet(['logits', '--input-ids', ids, '--output', path, ...args])
  expect(result.status).toBe(0)
  return readFile(path)
}

describe('octet quantize', () => {
  it('writes what computes as the source does, and says what it wrote', async () => {
    const output = fresh()
    const source = ['--model', fixture('fairy-llama')]
    const made = await octet(['quantize', ...source, '--output', output, '--calibrate', text, '--rounding', 'nearest', '--max-shard-size', '1MB', '--json'])
    expect([made.status, made.stderr]).toEqual([0, ''])
    expect(jsonOf(made)).toMatchObject({ schemaVersion: 1, output, recipe: null, calibrated: { rows: 1 }, rounding: 'nearest', bytes: { other: expect.any(Number) as number } })
    const before = [...source, '--fp8', '--calibration', join(output, RECIPE_STATE_FILE)]
    const after = ['--model', output, '--fp8']
    expect(await tokens(...after, '--kv-dtype', 'fp8')).toEqual(await tokens(...before, '--kv-dtype', 'fp8'))
    expect((await logits(...after)).equals(await logits(...before))).toBe(true)
    // Scales of another model are refused by whatever takes them.
    for (const args of [['quantize', '--output', join(dir, 'refused')], ['generate', '--input-ids', ids, '--fp8'], ['logits', '--input-ids', ids, '--output', join(dir, 'x'), '--fp8']]) {
      const result = await octet([...args, '--calibration', join(output, RECIPE_STATE_FILE), '--model', fixture('fairy-gemma'), '--json'])
      expect([result.status, code(result)]).toEqual([1, 'CHECKPOINT_MISMATCH'])
      expect(result.stdout).toContain('calibrate this model')
    }
  })

  it('compensates weights where it calibrates, and says so', async () => {
    const [output, nearest] = [fresh(), fresh()]
    const args = ['quantize', '--model', fixture('fairy-llama'), '--calibrate', text]
    const made = await octet([...args, '--output', output])
    expect(made.stderr).toMatch(/; static scales from \d+ tokens in 1 rows, weights rounded by the same inputs\n$/)
    expect((await octet([...args, '--output', nearest, '--rounding', 'nearest'])).stderr).toMatch(/weights rounded to nearest\n$/)
    expect((await logits('--model', output, '--fp8')).equals(await logits('--model', nearest, '--fp8'))).toBe(false)
  })

  it('prints the folder for people, and notes what it took', async () => {
    const output = fresh()
    const made = await octet(['quantize', '--model', fixture('fairy-gemma'), '--output', output, '--recipe', 'block'])
    expect([made.status, made.stdout]).toEqual([0, `${output}\n`])
    expect(made.stderr).toMatch(/^\d+ files: .* in FP8 \(0\.50\d of bf16\), .* unquantized\n$/)
    const chat = async (...args: string[]) => (await octet(['chat', ...args, '--max-new-tokens', '12'], { input: 'A tale\n' })).stdout
    expect(await chat('--model', output, '--fp8')).toBe(await chat('--model', fixture('fairy-gemma'), '--fp8', 'block'))
  })

  it.each([
    [2, ['--max-shard-size', '5 parsecs'], 'USAGE', 'such as 5GB'],
    [2, ['--recipe', 'int4'], 'USAGE', 'int4'],
    [2, ['--calibrate', 'a.txt', '--calibration', 'b'], 'USAGE', 'exclude each other'],
    [2, ['--rounding', 'compensated'], 'USAGE', 'add --calibrate FILE'],
    [2, ['--rounding', 'up'], 'USAGE', 'compensated'],
    [1, ['--recipe', 'delayed'], 'RECIPE_NOT_CALIBRATED', '--calibrate FILE'],
    [1, ['--calibrate', '/no/such/file.txt'], 'FILE_NOT_FOUND', '/no/such/file.txt'],
    [1, ['--calibrate', 'EMPTY'], 'INVALID_ARGUMENT', 'expected at least one token, received an empty file'],
    [1, ['--output', 'TAKEN'], 'INVALID_ARGUMENT', 'a folder that does not exist or is empty'],
  ])('ends with %i for %j', async (status, args, want, part) => {
    await writeFile(join(dir, 'empty.txt'), '')
    const shown = args.map((arg) => arg.replace('EMPTY', join(dir, 'empty.txt')).replace('TAKEN', dir))
    const result = await octet(['quantize', '--model', fixture('fairy-gemma'), '--output', join(dir, 'refused'), '--json', ...shown])
    expect([result.status, code(result)]).toEqual([status, want])
    expect(result.stdout).toContain(part)
    expect((await readdir(dir)).filter((name) => name.includes('refused'))).toEqual([])
  })
})

describe.each(['SIGKILL', 'SIGINT'] as const)('killed by %s', (signal) => {
  it('at any moment, the output is absent or complete, and the next run clears up', async () => {
    const device = await openDevice('cpu')
    const parent = await mkdtemp(join(dir, 'killed-'))
    const output = join(parent, 'out')
    const args = ['quantize', '--model', fixture('fairy-gemma'), '--output', output, '--calibrate', text, '--max-shard-size', '500KB']
    const start = performance.now()
    expect((await octet(args)).status).toBe(0)
    const whole = performance.now() - start
    const complete = (await readdir(output, { recursive: true })).sort()
    const random = new Random(signal.length)
    const moments = process.env['OCTET_SLOW'] === '1' ? 20 : 3
    for (let i = 0; i < moments; i++) {
      await rm(output, { recursive: true, force: true })
      // Most of a run's time passes before the first byte is written: half of the moments lie in its last third.
      const share = random.below(1000) / 1000
      const delay = whole * (i % 2 === 0 ? share : 0.66 + 0.34 * share)
      const result = await octet(args, { onStart: (child) => setTimeout(() => child.kill(signal), delay) })
      // A run that was quicker than the measured one ends by itself.
      if (result.status !== 0) expect(result.signal === signal || result.status === 130).toBe(true)
      const names = await readdir(parent)
      // An interrupted command takes away what it had begun, unless it had not begun to listen.
      if (result.status === 130) expect(names.filter((name) => name !== 'out')).toEqual([])
      if (names.includes('out')) {
        expect((await readdir(output, { recursive: true })).sort()).toEqual(complete)
        await (await loadModel(output, { device, fp8: true })).dispose()
      } else expect(result.status).not.toBe(0)
    }
    await rm(output, { recursive: true, force: true })
    expect((await octet(args)).status).toBe(0)
    expect(await readdir(parent)).toEqual(['out'])
    await device.dispose()
  }, 300_000)
})
