import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '@octet-llm/kernels'
import { loadModel } from '../load-model.js'
import { fixture, jsonOf, octet } from '../testing/cli.test-helper.js'
import { benchQuality, type QualityRow } from './quality.js'
import { asReference, DivergenceMeter, scoreWindows, type Scored } from './quality-score.js'
import { cutWindows, sampleWindows } from './quality-text.js'

const { signal } = new AbortController()
let device: Device
let dir: string
beforeAll(async () => {
  device = await openDevice('cpu')
  dir = await mkdtemp(join(tmpdir(), 'octet-quality-'))
})
afterAll(async () => {
  await device.dispose()
  await rm(dir, { recursive: true })
})

const scored = (probs: readonly (readonly number[])[], next: readonly number[]): Scored => ({ logProbs: Float32Array.from(probs.flat(), Math.log), next: Int32Array.from(next) })

describe('DivergenceMeter', () => {
  it('computes perplexity, divergence and agreement by their definitions', () => {
    const reference = asReference(scored([[0.5, 0.5], [0.25, 0.75], [1, 0]], [0, 1, -1]))
    const other = scored([[0.25, 0.75], [0.25, 0.75], [0.5, 0.5]], [0, 1, -1])
    const [own, meter] = [new DivergenceMeter(), new DivergenceMeter()]
    own.add(reference, reference)
    meter.add(reference, other)
    expect(own.result()).toEqual({ perplexity: expect.closeTo(Math.sqrt(1 / (0.5 * 0.75)), 6), kl: { mean: 0, p99: 0, max: 0 }, sameTop: 1 })
    const kl = 0.5 * Math.log(2) + 0.5 * Math.log(0.5 / 0.75)
    expect(meter.result()).toEqual({ perplexity: expect.closeTo(Math.sqrt(1 / (0.25 * 0.75)), 6), kl: { mean: expect.closeTo(kl / 2, 6), p99: expect.closeTo(kl, 6), max: expect.closeTo(kl, 6) }, sameTop: 0.5 })
  })

  it('takes what the reference holds impossible for nothing, and refuses to judge no token', () => {
    const meter = new DivergenceMeter()
    expect(() => meter.result()).toThrow(RangeError)
    meter.add(asReference(scored([[1, 0]], [0])), scored([[1, 0]], [0]))
    expect(meter.result().kl.mean).toBe(0)
  })
})

describe('texts', () => {
  it('are sampled by the seed alone, and cut into windows that begin with BOS', async () => {
    const llm = await loadModel(fixture('fairy-llama'), { device })
    const sample = (seed: number) => sampleWindows(llm, { seed, bytes: 300, window: 16, signal })
    const [a, b, c] = [await sample(4), await sample(4), await sample(5)]
    expect(a).toEqual(b)
    expect(a.windows).not.toEqual(c.windows)
    expect(a.bytes).toBeGreaterThanOrEqual(300)
    const texts = await Promise.all(a.windows.map((window) => llm.tokenizer!.decode(window, { skipSpecialTokens: true })))
    expect(texts.slice(0, -1).reduce((sum, text) => sum + Buffer.byteLength(text), 0)).toBeLessThan(300)
    const text = 'There was once a king who had three daughters. '.repeat(6)
    const cut = await cutWindows(llm, text, 10)
    const bos = llm.info.bosTokenId!
    expect(cut.bytes).toBe(text.length)
    for (const window of cut.windows) expect([window[0], window.length <= 10]).toEqual([bos, true])
    expect(await llm.tokenizer!.decode(cut.windows.flatMap((window) => window.slice(1)))).toBe(text)
    await llm.dispose()
  })

  it('are scored as a forward without a cache scores them, whatever their batch', async () => {
    const llm = await loadModel(fixture('fairy-gemma'), { device, dtype: 'f32' })
    const windows = [[2, 7, 300, 41, 9], [2, 500, 12]]
    const params = llm.model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 5 })
    const { logProbs, next } = await scoreWindows(llm.model, params, windows)
    expect([...next]).toEqual([7, 300, 41, 9, -1, 500, 12, -1])
    const forward = llm.forward({ inputIds: [windows[1]!] })
    const logits = await forward.toFloat32Array()
    forward.dispose()
    const v = llm.info.vocabSize
    for (let t = 0; t < 3; t++) {
      const row = logits.subarray(t * v, (t + 1) * v)
      const log = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
      for (const i of [0, 12, 500, v - 1]) expect(Math.abs(logProbs[(5 + t) * v + i]! - (row[i]! - log))).toBeLessThan(1e-4)
    }
    params.dispose()
    await llm.dispose()
  })
})

describe('the fairy checkpoints in FP8', () => {
  let rows: QualityRow[]
  beforeAll(async () => {
    const models = [fixture('fairy-gemma'), fixture('fairy-llama')]
    rows = (await benchQuality({ models, bytes: 6000, texts: [], window: 64, seed: 0, device, signal, note: () => undefined })).rows
  })

  it('keep the bars of every way, over what bf16 sampled', () => {
    expect(rows).toHaveLength(2 * 9)
    for (const { model, variant, kv, kl, change, must, tokens } of rows) {
      expect([model, variant, kv, kl.mean <= must.kl]).toEqual([model, variant, kv, true])
      // log(p / q) of sampled tokens has a variance of about 2 KL: so far a sample of this size may stray.
      expect(Math.abs(change)).toBeLessThan(must.perplexity + 3 * Math.sqrt((2 * must.kl) / tokens))
      expect(kl.mean).toBeGreaterThan(1e-5)
    }
  })

  it('ran in what their rows say', () => {
    const of = (variant: string, kv: string) => rows.find((row) => row.model === 'fairy-llama' && row.variant === variant && row.kv === kv)!.ran
    expect(of('bf16 weights', 'fp8')).toMatchObject({ weights: { bf16: 42 }, rounding: {}, inputs: { none: 24 }, head: 'bf16', cache: { dtype: 'e4m3' } })
    expect(of('per row + per token', 'bf16')).toMatchObject({ weights: { row: 42 }, rounding: { compensated: 42 }, inputs: { row: 24 }, cache: { dtype: 'bf16', kScale: null, vScale: null } })
    expect(of('per row + static', 'fp8')).toMatchObject({ weights: { row: 42 }, inputs: { static: 24 }, cache: { dtype: 'e4m3' } })
    expect(of('per tensor + static', 'fp8')).toMatchObject({ weights: { tensor: 42 }, inputs: { static: 24 } })
    expect(of('128x128 + 1x128', 'fp8')).toMatchObject({ weights: { block128x128: 42 }, rounding: { compensated: 42 }, inputs: { block1x128: 24 } })
    const { kScale, vScale } = of('128x128 + 1x128', 'fp8').cache
    // Calibrated: no head has the scale 1 of an uncalibrated cache.
    for (const scale of [...kScale!, ...vScale!]) expect([scale > 1e-4, scale < 0.1]).toEqual([true, true])
  })
})

it('the command tells of a text that is not there, and appends its rows', async () => {
  const [text, output] = [join(dir, 'tale.txt'), join(dir, 'rows.jsonl')]
  await writeFile(text, 'There was once a king who had three daughters, and the youngest was the fairest of them all.')
  const args = ['bench', 'fp8-quality', '--model', fixture('fairy-llama'), '--text', text, join(dir, 'none.txt'), '--bytes', '500', '--window', '24', '--output', output]
  const asNearest = jsonOf(await octet([...args, '--json', '--rounding', 'nearest'])) as { rows: QualityRow[] }
  expect(asNearest.rows.map(({ ran }) => ran.rounding)).toEqual(asNearest.rows.map(({ variant }) => (variant === 'bf16 weights' ? {} : { nearest: 42 })))
  const asJson = jsonOf(await octet([...args, '--json'])) as { rows: QualityRow[]; absent: string[] }
  expect(asJson.absent).toEqual([join(dir, 'none.txt')])
  expect(asJson.rows.map((row) => row.text)).toEqual([...Array.from({ length: 9 }, () => 'sample'), ...Array.from({ length: 9 }, () => 'tale.txt')])
  const plain = await octet(args)
  expect(plain.stderr).toContain('none.txt is not there')
  expect(plain.stdout).toMatch(/128x128 \+ 1x128 +fp8 .*42 block128x128 +42 compensated +24 block1x128 +bf16 +e4m3/)
  const { readFile } = await import('node:fs/promises')
  expect((await readFile(output, 'utf8')).trim().split('\n')).toHaveLength(54)
})
