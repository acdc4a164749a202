import { copyFile, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Float8BlockScaling } from '@octet-llm/fp8-recipe'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import { openDevice, type Device } from '@octet-llm/kernels'
import { calibrate, InputMoments, type DecoderForCausalLM, type Fp8Option } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import { fixture } from '../testing/cli.test-helper.js'
import { quantizeCheckpoint, RECIPE_STATE_FILE, type QuantizeCheckpointOptions, type QuantizeProgress } from './quantize-checkpoint.js'

const TALE = 'Once upon a time there lived a king who had three daughters. The youngest went into the wood, and the old witch said to her: give me your golden ring.\n'
const IDS = [[2, 17, 99, 203, 45, 8, 77], [2, 31, 12, 45, 9, 30, 5]]
const GEMMA = fixture('fairy-gemma')
const LLAMA = fixture('fairy-llama')

let device: Device
let dir: string
let text: string
beforeAll(async () => {
  device = await openDevice('cpu')
  dir = await mkdtemp(join(tmpdir(), 'octet-quantize-'))
  text = join(dir, 'tale.txt')
  await writeFile(text, TALE.repeat(3))
})
afterAll(async () => {
  await rm(dir, { recursive: true, force: true })
  await device.dispose()
})

let outputs = 0
const fresh = (): string => join(dir, `out-${outputs++}`)

/** What a loaded checkpoint computes: logits, and greedy tokens over a bf16 and an FP8 cache. */
async function results(source: string, options: LoadModelOptions, caches: readonly ('bf16' | 'e4m3')[] = ['bf16']): Promise<unknown[]> {
  const llm = await loadModel(source, { device, ...options })
  const logits = llm.forward({ inputIds: IDS })
  const found: unknown[] = [Buffer.from(await logits.toBytes()).toString('base64')]
  logits.dispose()
  for (const dtype of caches) found.push((await llm.generate({ inputIds: IDS }, { maxNewTokens: 24, ignoreEos: true, kvCache: { dtype } }).result()).sequences)
  await llm.dispose()
  return found
}

describe('a checkpoint computes after saving what it did before, to the bit', () => {
  const block = new Float8BlockScaling({ wBlockScalingDim: 1, fp8QuantFwdWeight: { power2Scale: false } })
  const cases: [string, QuantizeCheckpointOptions, Fp8Option][] = [
    ['by row and token', {}, true],
    ['static by tensor', { recipe: 'delayed', calibrate: 'tale', rounding: 'nearest' }, 'delayed'],
    ['static by row', { calibrate: 'tale', rounding: 'nearest' }, true],
    ['128x128 and 1x128', { recipe: 'block', maxShardSize: '1MB' }, 'block'],
    ['1x128 and 1x128, a calibrated cache', { recipe: block, calibrate: 'tale', rounding: 'nearest' }, block],
    ['current, the head too', { recipe: 'current', fp8LmHead: true }, { recipe: 'current', fp8LmHead: true }],
  ]
  it.each([GEMMA, LLAMA].flatMap((model) => cases.map((each) => [model.split('/').at(-1)!, ...each] as const)))('%s: %s', async (name, _, options, fp8) => {
    const model = fixture(name)
    const output = fresh()
    const calibrated = options.calibrate !== undefined
    const made = await quantizeCheckpoint(model, output, { device, ...options, ...(calibrated ? { calibrate: text } : {}) })
    expect(made.rounding).toBe('nearest')
    expect(made.bytes.quantized).toBeLessThanOrEqual((options.recipe === block ? 0.54 : 0.52) * made.bytes.quantizedAsBf16)
    expect(made.files.filter((file) => file.startsWith('model-')).length).toBe(options.maxShardSize === undefined ? 0 : 4)
    expect(made.files.includes(RECIPE_STATE_FILE)).toBe(calibrated)
    const source: LoadModelOptions = { fp8, ...(calibrated ? { calibration: join(output, RECIPE_STATE_FILE) } : {}) }
    const caches = calibrated ? (['bf16', 'e4m3'] as const) : (['bf16'] as const)
    const saved = await results(output, { fp8: true }, caches)
    expect(saved).toEqual(await results(model, source, caches))
    // Without fp8 the weights are de-quantized: another computation.
    expect((await results(output, {}))[0]).not.toEqual(saved[0])
  })

  it.each([GEMMA, LLAMA].flatMap((model) => ([true, 'delayed', 'block', block] as const).map((fp8) => [model.split('/').at(-1)!, fp8] as const)))('%s, weights compensated: %j', async (name, fp8) => {
    const model = fixture(name)
    const before = device.memoryStats().allocatedBytes
    const moments = new InputMoments(device)
    const llm = await loadModel(model, { device })
    const batches = [{ inputIds: IDS }, { inputIds: [[9, 8, 7], [9, 11, 0]], attentionMask: [[1, 1, 1], [1, 1, 0]] }]
    const calibration = await calibrate(llm.model as DecoderForCausalLM, batches, { moments })
    await llm.dispose()
    const output = fresh()
    const made = await quantizeCheckpoint(model, output, { device, calibrate: batches, ...(fp8 === true ? {} : { recipe: fp8 }) })
    expect([made.rounding, made.bytes.quantized <= (fp8 === block ? 0.54 : 0.52) * made.bytes.quantizedAsBf16]).toEqual(['compensated', true])
    const caches = ['bf16', 'e4m3'] as const
    const saved = await results(output, { fp8: true }, caches)
    expect(saved).toEqual(await results(model, { fp8, calibration, moments }, caches))
    expect(saved[0]).not.toEqual((await results(model, { fp8, calibration }))[0])
    const other = name === 'fairy-gemma' ? LLAMA : GEMMA
    await expect(loadModel(other, { device, fp8: true, moments })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH', argument: 'moments' })
    moments.dispose()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('of an adapter that was merged before', async () => {
    const output = fresh()
    const adapter = fixture('lora-fairy-llama')
    await quantizeCheckpoint(LLAMA, output, { device, adapter })
    expect(await results(output, { fp8: true })).toEqual(await results(LLAMA, { fp8: true, adapter }))
    // Into weights that are in FP8 already: those that it changes are rounded again.
    const again = fresh()
    expect((await quantizeCheckpoint(output, again, { device, adapter, calibrate: [{ inputIds: IDS }] })).rounding).toBe('nearest')
    expect(await results(again, { fp8: true })).not.toEqual(await results(output, { fp8: true }))
  })

  it('of another FP8 form, whose codes and scales it keeps', async () => {
    const output = fresh()
    const source = fixture('variants/llama-fp8-block128')
    await quantizeCheckpoint(source, output, { device })
    expect(await results(output, { fp8: true })).toEqual(await results(source, { fp8: true }))
    const [was, is] = [await openSafetensors(join(source, 'model.safetensors')), await openSafetensors(join(output, 'model.safetensors'))]
    expect(await is.read('model.layers.1.mlp.up_proj.weight')).toEqual(await was.read('model.layers.1.mlp.up_proj.weight'))
    expect(await is.read('model.layers.1.mlp.up_proj.weight_scale')).toEqual(await was.read('model.layers.1.mlp.up_proj.weight_scale_inv'))
    for (const file of [was, is]) await file.close()
    const kept = await quantizeCheckpoint(source, fresh(), { device, calibrate: [{ inputIds: IDS }] })
    expect([kept.rounding, kept.calibrated]).toEqual(['kept', { rows: 2, tokens: 14 }])
    await expect(quantizeCheckpoint(source, fresh(), { device, calibrate: text, rounding: 'compensated' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'rounding' })
    await expect(quantizeCheckpoint(source, fresh(), { device, recipe: 'current' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'recipe', message: expect.stringContaining('in FP8 already') as string })
  })
})

describe('quantizeCheckpoint', () => {
  it('calibrates on texts, chats and ids, and says what it saw', async () => {
    const lines = join(dir, 'lines.jsonl')
    await writeFile(lines, ['"The dragon slept."', '{"text": "A ring of gold."}', '{"messages": [{"role": "user", "content": "A tale"}]}', '{"input_ids": [2, 5, 9]}'].join('\n'))
    const progress: QuantizeProgress[] = []
    const output = fresh()
    const { calibrated, recipe, files } = await quantizeCheckpoint(GEMMA, output, { device, calibrate: lines, onProgress: (each) => progress.push(each) })
    expect(calibrated!.rows).toBe(4)
    expect([...new Set(progress.map(({ phase }) => phase))]).toEqual(['load', 'calibrate', 'save'])
    for (const phase of ['load', 'calibrate', 'save']) {
      const last = progress.findLast((each) => each.phase === phase)!
      expect(last.done).toBe(last.total)
    }
    expect(progress.findLast(({ phase }) => phase === 'calibrate')!.total).toBe(calibrated!.tokens)
    expect(recipe).toBeNull()
    expect(files).toEqual(['chat_template.jinja', 'config.json', 'generation_config.json', 'model.safetensors', RECIPE_STATE_FILE, 'tokenizer.json', 'tokenizer_config.json'])
    for (const name of ['generation_config.json', 'tokenizer.json', 'chat_template.jinja']) expect((await readFile(join(output, name))).equals(await readFile(join(GEMMA, name)))).toBe(true)
    const state = await openSafetensors(join(output, RECIPE_STATE_FILE))
    expect([...state.metadata]).toEqual([['format', 'pt'], ['recipe', 'null']])
    expect(state.tensors.get('layers.0.self_attention.layernorm_qkv.input_scale')!.shape).toEqual([1])
    await state.close()
    // Batches of one's own, with pads; the larger of both texts counts.
    const own = await quantizeCheckpoint(GEMMA, fresh(), { device, calibrate: [{ inputIds: [[2, 5, 9], [2, 7, 0]], attentionMask: [[1, 1, 1], [1, 1, 0]] }] })
    expect(own.calibrated).toEqual({ rows: 2, tokens: 5 })
  })

  it('long texts become rows of the asked length', async () => {
    const { calibrated } = await quantizeCheckpoint(GEMMA, fresh(), { device, calibrate: text, rowLength: 16 })
    const tokens = calibrated!.tokens - (calibrated!.rows - 1)
    expect(calibrated!.rows).toBe(Math.ceil((tokens - 1) / 15))
  })

  it('leaves nothing behind a failure or an abort', async () => {
    const parent = join(dir, 'failing')
    await mkdir(parent)
    const output = join(parent, 'out')
    const reason = new Error('enough')
    const before = device.memoryStats().allocatedBytes
    for (const phase of ['load', 'calibrate', 'quantize', 'save']) {
      const controller = new AbortController()
      let calibrated = false
      const onProgress = (each: QuantizeProgress): void => {
        calibrated ||= each.phase === 'calibrate'
        // Weights are quantized by the load that follows the calibration.
        if (each.phase === phase || (phase === 'quantize' && calibrated && each.phase === 'load')) controller.abort(reason)
      }
      await expect(quantizeCheckpoint(GEMMA, output, { device, calibrate: text, rowLength: 32, signal: controller.signal, onProgress })).rejects.toBe(reason)
      expect(await readdir(parent)).toEqual([])
    }
    await expect(quantizeCheckpoint(GEMMA, output, { device, adapter: fixture('lora-fairy-llama') })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH' })
    await expect(quantizeCheckpoint(GEMMA, output, { device, calibrate: [] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('at least one token') as string })
    expect(await readdir(parent)).toEqual([])
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('refuses what cannot be, before it reads a weight', async () => {
    const taken = join(dir, 'taken')
    await mkdir(taken)
    await copyFile(text, join(taken, 'mine'))
    const refusal = (options: QuantizeCheckpointOptions, output = fresh()) => {
      const run = quantizeCheckpoint(GEMMA, output, { device, ...options, onProgress: () => expect.unreachable() })
      return { toMatchObject: (error: object) => expect(run).rejects.toMatchObject(error) }
    }
    await refusal({}, taken).toMatchObject({ code: 'INVALID_ARGUMENT', hint: expect.stringContaining('another folder') as string })
    expect(await readdir(taken)).toEqual(['mine'])
    await refusal({ recipe: 'delayed' }).toMatchObject({ code: 'RECIPE_NOT_CALIBRATED' })
    await refusal({ recipe: 'mxfp8' }).toMatchObject({ code: 'RECIPE_NOT_SUPPORTED' })
    await refusal({ maxShardSize: '5 parsecs' }).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'maxShardSize' })
    await refusal({ rowLength: 0 }).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'rowLength' })
    await refusal({ rounding: 'compensated' }).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'rounding', hint: expect.stringContaining('calibrate') as string })
    await refusal({ calibrate: text, rounding: 'up' as 'nearest' }).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'rounding', expected: 'compensated or nearest' })
    await refusal({ calibrate: text, calibration: new Map() }).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'calibration' })
    await refusal({ calibrate: join(dir, 'none.txt') }).toMatchObject({ code: 'FILE_NOT_FOUND' })
    await expect(quantizeCheckpoint(join(dir, 'none'), fresh(), { device })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
  })
})
