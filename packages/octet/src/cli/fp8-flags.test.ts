// The flags of FP8, cache and adapter on the command line: each has the effect of its library option, and bad input one error.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openSafetensors, writeSafetensors, type TensorEntry } from '@octet-llm/hf-loader/safetensors'
import { openDevice, type Device } from '@octet-llm/kernels'
import { calibrate, calibrationEntries } from '@octet-llm/transformer'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import { fixture, jsonOf, octet, type CliResult } from '../testing/cli.test-helper.js'

const LLAMA = fixture('fairy-llama')
const LORA = fixture('lora-fairy-llama')
const ROWS = [[2, 17, 99, 203, 45, 8, 77], [2, 31, 12, 45]]

let device: Device
let dir: string
let ids: string
let scales: string
beforeAll(async () => {
  device = await openDevice('cpu')
  dir = await mkdtemp(join(tmpdir(), 'octet-flags-'))
  ids = join(dir, 'ids.json')
  await writeFile(ids, JSON.stringify({ input_ids: ROWS }))
  scales = join(dir, 'scales.safetensors')
  const llm = await loadModel(LLAMA, { device })
  await writeSafetensors(scales, calibrationEntries(await calibrate(llm.model as Parameters<typeof calibrate>[0], [{ inputIds: [ROWS[0]!] }])))
  await llm.dispose()
})
afterAll(async () => {
  await rm(dir, { recursive: true, force: true })
  await device.dispose()
})

const error = (result: CliResult): { code: string; message: string } => jsonOf(result)['error'] as { code: string; message: string }
const generate = (...args: string[]) => octet(['generate', '--model', LLAMA, '--dtype', 'f32', '--input-ids', ids, '--max-new-tokens', '20', '--ignore-eos', '--json', ...args])

/** New tokens by the library, over a cache without pages and steps that are not recorded. */
async function expected(options: LoadModelOptions, kvDtype?: 'e4m3'): Promise<number[][]> {
  const llm = await loadModel(LLAMA, { device, dtype: 'f32', ...options })
  const { sequences } = await llm.generate({ inputIds: ROWS }, { maxNewTokens: 20, ignoreEos: true, graphs: false, kvCache: kvDtype === undefined ? {} : { dtype: kvDtype } }).result()
  await llm.dispose()
  return sequences
}

describe('octet generate', () => {
  it.each<[string[], LoadModelOptions, 'e4m3'?]>([
    [['--fp8'], { fp8: true }],
    [['--fp8', 'block', '--fp8-lm-head', '--no-graphs'], { fp8: { recipe: 'block', fp8LmHead: true } }],
    [['--fp8', 'delayed', '--calibration', 'SCALES', '--kv-dtype', 'fp8', '--paged', '--page-size', '1'], { fp8: 'delayed', calibration: 'SCALES' }, 'e4m3'],
    [['--calibration', 'SCALES', '--kv-dtype', 'fp8', '--paged', '--page-size', '16', '--no-graphs'], { calibration: 'SCALES' }, 'e4m3'],
    [['--calibration', 'SCALES', '--kv-dtype', 'fp8', '--paged', '--page-size', '256', '--graphs'], { calibration: 'SCALES' }, 'e4m3'],
    [['--adapter', LORA, '--paged', '--page-size', '3'], { adapter: LORA }],
    [['--adapter', LORA, '--adapter-mode', 'apply', '--fp8'], { adapter: LORA, adapterMode: 'apply', fp8: true }],
  ])('%j', async (args, { calibration, ...options }, kvDtype) => {
    const result = await generate(...args.map((arg) => arg.replace('SCALES', scales)))
    expect([result.status, result.stderr]).toEqual([0, ''])
    expect(jsonOf(result)['sequences']).toEqual(await expected({ ...options, ...(calibration === undefined ? {} : { calibration: scales }) }, kvDtype))
  })

  it('warns in one line of an FP8 cache without scales', async () => {
    const result = await generate('--kv-dtype', 'fp8')
    expect(result.status).toBe(0)
    expect(result.stderr).toMatch(/^octet: the FP8 KV cache has no calibrated scales .*octet quantize --calibrate FILE`\n$/)
  })

  it('chat and logits take them too', async () => {
    const chat = (...args: string[]) => octet(['chat', '--model', LLAMA, '--max-new-tokens', '8', ...args], { input: 'A tale\n' })
    const [plain, adapted] = [await chat('--fp8', '--calibration', scales, '--kv-dtype', 'fp8', '--paged', '--page-size', '4'), await chat('--adapter', LORA, '--adapter-mode', 'apply')]
    for (const result of [plain, adapted]) expect([result.status, result.stderr]).toEqual([0, ''])
    const logits = async (...args: string[]) => {
      const output = join(dir, 'logits.safetensors')
      expect((await octet(['logits', '--model', LLAMA, '--dtype', 'f32', '--input-ids', ids, '--output', output, ...args])).status).toBe(0)
      const file = await openSafetensors(output)
      return file.readFloat32('logits').finally(() => file.close())
    }
    const [merged, applied, fp8] = [await logits('--adapter', LORA), await logits('--adapter', LORA, '--adapter-mode', 'apply'), await logits('--adapter', LORA, '--fp8', '--calibration', scales)]
    const difference = (a: Float32Array, b: Float32Array) => a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0)
    expect(difference(merged, applied)).toBeLessThan(1e-4)
    expect(difference(merged, fp8)).toBeGreaterThan(1e-3)
  })

  it.each([
    [['--page-size', '16'], '--page-size needs --paged'],
    [['--paged', '--page-size', '0'], 'whole number'],
    [['--paged', '--page-size', '1.5'], 'whole number'],
    [['--kv-dtype', 'int8'], 'bf16, f32, fp8'],
    [['--adapter-mode', 'apply'], '--adapter-mode needs --adapter'],
    [['--adapter', LORA, '--adapter-mode', 'stack'], 'merge, apply'],
  ])('wrong usage: %j', async (args, part) => {
    const result = await generate(...args)
    expect([result.status, error(result).code]).toEqual([2, 'USAGE'])
    expect(error(result).message).toContain(part)
  })
})

describe('FP8 checkpoints that cannot be read', () => {
  const SOURCE = fixture('variants/llama-fp8-ct-channel-dynamic')
  const NAME = 'model.layers.0.mlp.up_proj'

  /** The fixture with its tensors, or its config, changed. */
  async function broken(change: (entry: TensorEntry) => TensorEntry | null, config: Record<string, unknown> = {}): Promise<string> {
    const folder = await mkdtemp(join(dir, 'broken-'))
    await cp(SOURCE, folder, { recursive: true })
    const file = await openSafetensors(join(SOURCE, 'model.safetensors'))
    const entries = await Promise.all([...file.tensors].map(async ([name, { dtype, shape }]) => change({ name, dtype, shape, data: await file.read(name) })))
    await file.close()
    await writeSafetensors(join(folder, 'model.safetensors'), entries.filter((entry) => entry !== null), { metadata: { format: 'pt' } })
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...(JSON.parse(await readFile(join(SOURCE, 'config.json'), 'utf8')) as object), ...config }))
    return folder
  }

  it.each<[string, string, string, (entry: TensorEntry) => TensorEntry | null, Record<string, unknown>?]>([
    ['a weight without its scale', 'MISSING_SCALE', `1 in FP8 without a scale (${NAME}.weight`, (entry) => (entry.name === `${NAME}.weight_scale` ? null : entry)],
    ['a scale of another shape', 'CHECKPOINT_MISMATCH', `${NAME}.weight_scale expected a scale of [320, 192] by tensor, row or 128-block, received [160, 2]`, (entry) => (entry.name === `${NAME}.weight_scale` ? { ...entry, shape: [160, 2] } : entry)],
    ['E5M2 weights', 'CHECKPOINT_MISMATCH', `${NAME}.weight expected f32, bf16, f16, f64 or e4m3, received e5m2`, (entry) => (entry.name === `${NAME}.weight` ? { ...entry, dtype: 'e5m2' } : entry)],
    ['an E5M2 recipe', 'INVALID_ARGUMENT', 'E5M2', (entry) => entry, { octet_fp8: { recipe: { recipe: 'Float8CurrentScaling', fp8Format: 'E5M2' }, fp8LmHead: false } }],
  ])('%s: %s', async (_, code, part, change, config) => {
    const folder = await broken(change, config)
    await expect(loadModel(folder, { device, fp8: true })).rejects.toMatchObject({ code, message: expect.stringContaining(part) as string })
    const result = await octet(['generate', '--model', folder, '--fp8', '--input-ids', ids, '--json'])
    expect([result.status, error(result).code]).toEqual([1, code])
    expect(error(result).message).toContain(part)
    expect(result.stderr).toBe('')
  })
})
