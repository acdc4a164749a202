import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { copy, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { RANDOM_MODELS } from '../random-configs.js'
import { jsonOf, octet } from '../testing/cli.test-helper.js'
import { benchAttention } from './attention.js'
import { describeDevice, rates, rotations, timeCalls } from './device-timer.js'
import { benchGemm } from './gemm.js'
import { benchNorm } from './norm.js'
import { KERNEL_MODELS, kernelShapes } from './shapes-of.js'

let device: Device
let dir: string
const { signal } = new AbortController()

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  dir = await mkdtemp(join(tmpdir(), 'octet-bench-'))
})
afterAll(async () => {
  await device.dispose()
  await rm(dir, { recursive: true })
})

async function collect<T>(rows: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const row of rows) all.push(row)
  return all
}

describe('measuring', () => {
  it('runs every call of the recording and leaks nothing', async () => {
    const from = Tensor.from(Float32Array.of(1, 2, 3, 4), { shape: [4], dtype: 'f32', device })
    const targets = Array.from({ length: 3 }, () => Tensor.zeros([4], { dtype: 'f32', device }))
    const before = device.memoryStats().allocations
    const timing = await timeCalls(device, targets.map((out) => () => void copy({ x: from, out })))
    expect(timing.best).toBeGreaterThan(0)
    expect(timing.micros).toBeGreaterThanOrEqual(timing.best)
    for (const target of targets) expect([...(await target.toFloat32Array())]).toEqual([1, 2, 3, 4])
    expect(device.memoryStats().allocations).toBe(before)
  })

  it('holds a time against bytes or operations, whichever need longer', () => {
    const timing = { micros: 10, best: 9, spread: 0 }
    const ceilings = { GBPerS: 100, bf16: 2, e4m3: 4 }
    expect(rates(timing, 5e5, 1e6, ceilings, 'bf16')).toEqual({ GBPerS: 50, TFLOPPerS: 0.1, floorMicros: 5, share: 0.5 })
    expect(rates(timing, 1, 2e7, ceilings, 'bf16').floorMicros).toBeCloseTo(10)
    expect(rates(timing, 1, 2e7, ceilings, 'e4m3').floorMicros).toBeCloseTo(5)
    expect(rates(timing, 1, 2e7, { ...ceilings, e4m3: null }, 'e4m3').floorMicros).toBeCloseTo(10)
  })

  it('rotates small operands more often than large ones', () => {
    expect(rotations(device, 1)).toBeGreaterThan(1)
    expect(rotations(device, 2 ** 40)).toBeLessThanOrEqual(2)
    expect(describeDevice(device)).toMatchObject({ device: 'cpu', gpu: null, threads: 1 })
  })
})

describe('benches of kernels', () => {
  it('gemm: every product, size and type of a model, with its bytes', async () => {
    const shapes = kernelShapes('tiny')
    const before = device.memoryStats().allocations
    const rows = await collect(benchGemm(device, { shapes, tokens: [1, 5], fp8: true, signal }))
    expect(rows.map((row) => `${row.product} ${row.weights} ${row.M}`)).toEqual(
      ['qkv', 'o', 'gate|up', 'down'].flatMap((name) => ['bf16', 'e4m3'].flatMap((type) => [1, 5].map((m) => `${name} ${type} ${m}`))).concat('lm_head bf16 1', 'lm_head bf16 5'),
    )
    const row = rows.find(({ product, weights, M }) => product === 'gate|up' && weights === 'e4m3' && M === 5)!
    expect([row.N, row.K]).toEqual([256, 64])
    expect((row.GBPerS * row.micros) / 1e-3).toBeCloseTo(256 * 64 + 5 * 64 + 5 * 256 * 2)
    expect((row.TFLOPPerS * row.micros) / 1e-6).toBeCloseTo(2 * 5 * 256 * 64)
    expect(device.memoryStats().allocations).toBe(before)
  })

  it('norm and attention: each of their cases', async () => {
    const shapes = kernelShapes('tiny')
    const before = device.memoryStats().allocations
    const norms = await collect(benchNorm(device, { shapes, tokens: [3], signal }))
    expect(norms.map(({ N, D, residual }) => [N, D, residual])).toEqual([[3, 64, false], [3, 64, true]])
    const rows = await collect(benchAttention(device, { shapes, batches: [2], contexts: [70], kv: ['bf16', 'e4m3'], signal }))
    expect(rows.map(({ phase, kv }) => `${phase} ${kv}`)).toEqual(['decode bf16', 'decode e4m3', 'prefill bf16', 'prefill e4m3'])
    const [decode] = rows
    expect((decode!.TFLOPPerS * decode!.micros) / 1e-6).toBeCloseTo(4 * 2 * 70 * 4 * 16)
    for (const { share } of [...norms, ...rows]) expect(share).toBeGreaterThan(0)
    expect(device.memoryStats().allocations).toBe(before)
  })

  it('knows the products of every built-in model', () => {
    for (const name of KERNEL_MODELS) for (const [product, n, k] of kernelShapes(name).products) expect(n * k, `${name} ${product}`).toBeGreaterThan(0)
    expect(kernelShapes('gemma-7b').products).toContainEqual(['gate|up', 49152, 3072])
    expect(kernelShapes('llama-3-8b').products[0]).toEqual(['qkv', 6144, 4096])
  })

  it('stops when it is aborted', async () => {
    const stopped = AbortSignal.abort(new Error('enough'))
    await expect(collect(benchNorm(device, { shapes: kernelShapes('tiny'), tokens: [1], signal: stopped }))).rejects.toThrow('enough')
  })
})

describe('the commands', () => {
  it('generate and prefill measure a whole model', async () => {
    const config = join(dir, 'config.json')
    const output = join(dir, 'rows.jsonl')
    await writeFile(config, JSON.stringify({ ...RANDOM_MODELS['llama-3.2-1b'], hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, vocab_size: 130 }))
    const common = ['--random-weights', config, '--device', 'cpu', '--batch', '3', '--prompt', '9', '--repeats', '2', '--output', output, '--json']
    const generate = jsonOf(await octet(['bench', 'generate', ...common, '--new-tokens', '6', '--fp8', '--kv-dtype', 'fp8'])) as Record<string, number>
    expect(generate).toMatchObject({ bench: 'generate', model: config, fp8: true, kv: 'e4m3', batch: 3, prompt: 9, newTokens: 6, repeats: 2, repeatable: true })
    for (const key of ['seconds', 'prefillMs', 'stepMs', 'firstTokenSeconds', 'floorStepMs', 'share', 'weightsBytes']) expect(generate[key], key).toBeGreaterThan(0)
    expect(generate.tokensPerS! * generate.stepMs!).toBeCloseTo(3000)
    const prefill = jsonOf(await octet(['bench', 'prefill', ...common])) as Record<string, number>
    expect(prefill).toMatchObject({ bench: 'prefill', fp8: false, kv: 'bf16', repeatable: true })
    expect(prefill.tokensPerS! * prefill.ms!).toBeCloseTo(27000)
    const rows = (await readFile(output, 'utf8')).trim().split('\n').map((row) => JSON.parse(row) as { bench: string; time: string })
    expect(rows.map(({ bench }) => bench)).toEqual(['generate', 'prefill'])
    for (const { time } of rows) expect(Date.parse(time)).not.toBeNaN()
  })

  it('gemm prints a table', async () => {
    const { status, stdout } = await octet(['bench', 'gemm', '--device', 'cpu', '--shapes', 'tiny', '--tokens', '1'])
    expect([status, stdout.trim().split('\n').length]).toEqual([0, 6])
    expect(stdout).toMatch(/^gate\|up bf16 M=1 N=256 K=64 +\d/m)
  })
})
