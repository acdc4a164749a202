import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice, type Device } from '@octet-llm/kernels'
import { calibrate, type Fp8Option } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'

import type { FromPretrainedOptions } from './load.js'
import { TEGemmaForCausalLM } from './model.js'
import { fixture, prefill, readGolden, unpadded, type ModelGolden, type VariantGolden } from './testing/goldens.test.util.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const load = (dir: string, options: Omit<FromPretrainedOptions, 'device'>) => TEGemmaForCausalLM.fromPretrained(dir, { device, dtype: 'f32', ...options })
const best = (logits: Float32Array, vocab: number): number[] => Array.from({ length: logits.length / vocab }, (_, i) => logits.subarray(i * vocab, (i + 1) * vocab)).map((row) => row.indexOf(Math.max(...row)))

const golden = readGolden<ModelGolden>('golden-fairy-gemma')
const ids = golden.greedy_64[0]!

describe('fairy-gemma in FP8', () => {
  it.each<[string, Fp8Option, boolean]>([['by row', true, false], ['calibrated', 'delayed', true], ['block', 'block', false], ['a head of its own', { fp8LmHead: true }, false]])('predicts as the unquantized model does, and is saved to the bit: %s', async (_, fp8, calibrated) => {
    const plain = await load(fixture('fairy-gemma'), {})
    const calibration = calibrated ? await calibrate(plain, [{ inputIds: golden.greedy_64.slice(0, 2) }]) : undefined
    const want = await plain.forward({ inputIds: [ids] }).toFloat32Array()
    const model = await load(fixture('fairy-gemma'), { fp8, ...(calibration === undefined ? {} : { calibration }) })
    const got = await model.forward({ inputIds: [ids] }).toFloat32Array()
    const [a, b] = [best(want, plain.info.vocabSize), best(got, plain.info.vocabSize)]
    expect(a.filter((id, i) => id === b[i]).length / a.length).toBeGreaterThan(0.9)
    // The tied head in FP8 is a copy of its own; the embedding stays.
    const copy = typeof fp8 === 'object' ? plain.info.vocabSize * (plain.info.hiddenSize + 4) : 0
    const linears = (m: TEGemmaForCausalLM) => m.linears().reduce((sum, [, part]) => sum + part.weight.byteLength, 0)
    expect(model.memory().weightsBytes).toBe(plain.memory().weightsBytes - linears(plain) + linears(model) + copy)
    const dir = await mkdtemp(join(tmpdir(), 'octet-fp8-'))
    await model.exportQuantized(dir)
    const { quantization_config: saved } = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')) as { quantization_config: { ignore: string[]; config_groups: object } }
    expect([saved.ignore, Object.keys(saved.config_groups)]).toEqual([['lm_head'], ['group_0']])
    const again = await load(dir, { fp8: true })
    expect([...(await again.forward({ inputIds: [ids] }).toFloat32Array())]).toEqual([...got])
    await rm(dir, { recursive: true })
    for (const m of [plain, model, again]) await m.dispose()
  })

  it('of a multimodal checkpoint saves the text model under a config of its own', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'octet-fp8-'))
    const [source, output] = [join(dir, 'source'), join(dir, 'output')]
    await cp(fixture('variants/gemma3'), source, { recursive: true })
    const flat = JSON.parse(await readFile(join(source, 'config.json'), 'utf8')) as Record<string, unknown>
    await writeFile(join(source, 'config.json'), JSON.stringify({ model_type: 'gemma3', architectures: ['Gemma3ForConditionalGeneration'], eos_token_id: [1, 106], vision_config: {}, text_config: flat }))
    const model = await load(source, { fp8: true })
    await model.exportQuantized(output)
    const config = JSON.parse(await readFile(join(output, 'config.json'), 'utf8')) as Record<string, unknown>
    expect(config).toMatchObject({ model_type: 'gemma3_text', architectures: ['Gemma3ForCausalLM'], hidden_size: flat['hidden_size'] })
    expect([config['text_config'], config['vision_config']]).toEqual([undefined, undefined])
    const again = await load(output, { fp8: true })
    expect(await again.forward({ inputIds: [[2, 5, 9]] }).toFloat32Array()).toEqual(await model.forward({ inputIds: [[2, 5, 9]] }).toFloat32Array())
    await rm(dir, { recursive: true })
    for (const m of [model, again]) await m.dispose()
  })

  it('warns once of an FP8 cache without scales', async () => {
    const model = await load(fixture('fairy-gemma'), {})
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const rows = unpadded(golden.left_padded)
    const whole = await prefill(model, rows, Infinity, { kvDtype: 'fp8' })
    expect([...(await prefill(model, rows, 2, { kvDtype: 'fp8', isPaged: true, pageSize: 1 }))]).toEqual([...whole])
    expect(warn.mock.calls.map(([, options]) => options)).toEqual([{ code: 'OCTET_KV_UNCALIBRATED' }])
    warn.mockRestore()
    await model.dispose()
  })
})

describe.each(['gemma-mqa', 'gemma2', 'gemma3'])('%s', (variant) => {
  it('decode and prefill agree to the bit in FP8 with an FP8 cache', async () => {
    const dir = fixture(`variants/${variant}`)
    const rows = unpadded(readGolden<VariantGolden>(`variants/${variant}`))
    const plain = await load(dir, {})
    const calibration = await calibrate(plain, rows.map((row) => ({ inputIds: [row] })))
    await plain.dispose()
    const model = await load(dir, { fp8: true, calibration })
    const whole = await prefill(model, rows, Infinity, { kvDtype: 'fp8' })
    expect([...(await prefill(model, rows, 3, { kvDtype: 'fp8', isPaged: true, pageSize: 4 }))]).toEqual([...whole])
    expect([...(await prefill(model, rows, Infinity, { kvDtype: 'f32' }))]).not.toEqual([...whole])
    await model.dispose()
  })
})
