import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadModel } from '../load-model.js'
import { fixture } from '../testing/cli.test-helper.js'
import { Sample, type Check, type Finding } from './checks.js'
import { distance, divergence, equalBits } from './measures.js'
import { runGoldens } from './run-goldens.js'

let dir: string
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'octet-goldens-'))))
afterAll(() => rm(dir, { recursive: true, force: true }))

describe('runGoldens', () => {
  it('passes on this CPU, and tells what it measured', async () => {
    const seen = new Map<string, string | undefined>()
    const result = await runGoldens(fixture('.'), { device: 'cpu', only: 'gemma2', onCheck: (name, { measured }) => void seen.set(name, measured) })
    expect(result).toEqual({ checks: 8, failures: [] })
    expect([...seen.keys()]).toEqual(['logits', 'logits twice', 'last logits of the batch', 'greedy choices of the sample', 'greedy', 'greedy, op by op', 'greedy, paged', 'bf16 distributions'].map((name) => `gemma2: ${name}`))
    expect(seen.get('gemma2: logits')).toMatch(/^\d\.\d\de-\d <= 0\.0002$/)
    const { input_ids, attention_mask, greedy_24 } = JSON.parse(await readFile(fixture('variants/gemma2/golden.json'), 'utf8')) as Record<string, number[][]>
    const tokens = [...attention_mask!.flat(), ...greedy_24!.flat().map(() => 1)].reduce((sum, one) => sum + one, 0)
    expect(tokens).toBeGreaterThan(input_ids!.length * 24)
    expect(seen.get('gemma2: bf16 distributions')).toMatch(new RegExp(`^\\d\\.\\d\\de-\\d nats over ${tokens} positions <= 0\\.0005$`))
  })

  it('finds tokens and logits that are not the goldens', async () => {
    const folder = join(dir, 'variants', 'wrong')
    await mkdir(folder, { recursive: true })
    await cp(fixture('variants/gemma2'), folder, { recursive: true })
    const golden = JSON.parse(await readFile(join(folder, 'golden.json'), 'utf8')) as { greedy_24: number[][]; input_ids: number[][] }
    golden.greedy_24[1]![5]! += 1
    golden.input_ids[0]![2] = (golden.input_ids[0]![2]! + 1) % 256
    await writeFile(join(folder, 'golden.json'), JSON.stringify(golden))
    const { failures } = await runGoldens(dir, { device: 'cpu' })
    const names = failures.map(({ name }) => name)
    for (const name of ['logits', 'last logits of the batch', 'greedy choices of the sample', 'greedy', 'greedy, op by op', 'greedy, paged']) expect(names).toContain(`wrong: ${name}`)
    expect(names).not.toContain('wrong: logits twice')
    expect(failures[0]!.fault).toMatch(/, bar 0\.0002$/)
  })

  it('measures a model over every token of the sample, against the float32 model it has seen', async () => {
    const device = await openDevice('cpu')
    const sample = new Sample([{ prompt: [5, 6, 7], fed: [8, 9] }, { prompt: [10], fed: [] }])
    const run = async (checks: Iterable<Check>): Promise<Finding> => [...checks][0]!.run()
    const [one, other] = await Promise.all(['llama-rope3', 'llama-bias-tied'].map((name) => loadModel(fixture(`variants/${name}`), { device, dtype: 'f32' })))
    expect((await run(sample.divergence(one!, 'x', 0.01))).fault).toMatch(/^Infinity nats over 6 positions, bar 0\.01$/)
    expect(await run(sample.checks(one!))).toEqual({ fault: 'differs' })
    expect(await run(sample.divergence(one!, 'x', 0.01))).toEqual({ fault: null, measured: '0.00e+0 nats over 6 positions <= 0.01' })
    expect((await run(sample.divergence(other!, 'x', 0.01))).fault).toMatch(/^\d\.\d\de[+-]\d nats over 6 positions, bar 0\.01$/)
    await device.dispose()
  })

  it('refuses a folder without goldens', async () => {
    await expect(runGoldens(join(dir, 'none'), { device: 'cpu' })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', argument: '--goldens' })
  })
})

describe('measures', () => {
  const of = (...values: number[]): Float32Array => Float32Array.from(values)
  it('tell bits apart, a zero’s sign too', () => {
    expect(equalBits(of(1, -0), of(1, -0))).toBe(true)
    expect(equalBits(of(1, -0), of(1, 0))).toBe(false)
  })
  it('see NaN and missing values', () => {
    expect(distance(of(1, 2), of(1.5, 2))).toBe(0.5)
    expect(distance(of(1, 2), of(1, NaN))).toBeNaN()
    expect(distance(of(1, 2), of(1))).toBe(Infinity)
    expect(divergence(of(1, 2), of(1), 2)).toBe(Infinity)
  })
  it('give the divergence of distributions, whatever is added to the logits', () => {
    expect(divergence(of(0, 0, 1, 3), of(5, 5, 2, 4), 2)).toBeCloseTo(0, 6)
    expect(divergence(of(0, 0), of(0, Math.log(3)), 2)).toBeCloseTo(Math.log(0.5 / 0.25) / 2 + Math.log(0.5 / 0.75) / 2, 6)
  })
})
