import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DelayedScaling, Float8BlockScaling, Float8CurrentScaling, MXFP8BlockScaling, recipeToJSON } from '@octet-llm/fp8-recipe'
import { readConfig } from '@octet-llm/hf-loader/config'
import { openSafetensors, writeSafetensors } from '@octet-llm/hf-loader/safetensors'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { autocast, calibrate, calibrationEntries, exportRecipeState, importRecipeState, type Fp8Option } from '@octet-llm/transformer'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

import type { FromPretrainedOptions } from './load.js'
import { TELlamaForCausalLM } from './model.js'
import { fixture, goldenTensor, maxDifference, prefill, readGolden, unpadded, type ModelGolden, type VariantGolden } from './testing/goldens.test.util.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const made: string[] = []
afterEach(async () => {
  for (const dir of made.splice(0)) await rm(dir, { recursive: true })
})
async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'octet-fp8-'))
  made.push(dir)
  return dir
}

const load = (name: string, options: Omit<FromPretrainedOptions, 'device'>) => TELlamaForCausalLM.fromPretrained(name.startsWith('/') ? name : fixture(name), { device, ...options })
const logitsOf = async (model: TELlamaForCausalLM, inputIds: number[][]) => {
  const logits = model.forward({ inputIds })
  const values = await logits.toFloat32Array()
  logits.dispose()
  return values
}

const golden = readGolden<ModelGolden>('golden-fairy-llama')
const rows = unpadded(golden.left_padded)

/** Mean KL divergence, in nats a token, of `got` from `want`. */
function divergence(want: Float32Array, got: Float32Array, vocab: number): number {
  let sum = 0
  for (let at = 0; at < want.length; at += vocab) {
    const logs = [want, got].map((logits) => {
      const row = logits.subarray(at, at + vocab)
      const max = row.reduce((m, v) => Math.max(m, v), -Infinity)
      const log = Math.log(row.reduce((s, v) => s + Math.exp(v - max), 0)) + max
      return Float64Array.from(row, (v) => v - log)
    }) as [Float64Array, Float64Array]
    for (let i = 0; i < vocab; i++) sum += Math.exp(logs[0][i]!) * (logs[0][i]! - logs[1][i]!)
  }
  return sum / (want.length / vocab)
}

describe('fairy-llama quantized while it loads', () => {
  it('quantizes linears only, to at most 0.52 of their bytes, and keeps no other copy', async () => {
    const bf16 = await load('fairy-llama', {})
    const linears = (model: TELlamaForCausalLM) => model.linears().reduce((sum, [, part]) => sum + part.weight.byteLength, 0)
    const plain = { bytes: linears(bf16), memory: bf16.memory().weightsBytes }
    await bf16.dispose()
    const before = device.memoryStats().allocatedBytes
    const model = await load('fairy-llama', { fp8: true })
    expect(linears(model)).toBeLessThanOrEqual(0.52 * plain.bytes)
    expect(plain.memory - model.memory().weightsBytes).toBe(plain.bytes - linears(model))
    await device.synchronize()
    // Tensors are rounded up to the allocator's granule.
    expect(device.memoryStats().allocatedBytes - before).toBeLessThan(1.15 * model.memory().weightsBytes)
    for (const [name, weight] of model.weights) expect([name, weight.dtype]).toEqual([name, model.linears().some(([, part]) => part.weight === weight) ? 'e4m3' : name.includes('norm') ? 'f32' : 'bf16'])
    await model.dispose()
  })

  it.each<[string, Fp8Option, number]>([
    ['by row and token', true, 0.01],
    ['current', 'current', 0.01],
    ['block', new Float8BlockScaling(), 0.01],
    ['head too', { fp8LmHead: true }, 0.015],
  ])('stays close to the unquantized model: %s', async (_, fp8, bar) => {
    const ids = [golden.greedy_64[0]!]
    const plain = await load('fairy-llama', { dtype: 'f32' })
    const model = await load('fairy-llama', { dtype: 'f32', fp8 })
    const [want, got] = [await logitsOf(plain, ids), await logitsOf(model, ids)]
    expect(divergence(want, got, model.info.vocabSize)).toBeLessThan(bar)
    expect([...got]).not.toEqual([...want])
    await plain.dispose()
    await model.dispose()
  })

  it.each<[string, Fp8Option]>([['by token', true], ['1x128', new Float8BlockScaling()]])('a token’s result depends on nothing but its past: %s', async (_, fp8) => {
    const model = await load('fairy-llama', { dtype: 'f32', fp8 })
    const { vocabSize } = model.info
    const whole = await prefill(model, rows)
    expect([...(await prefill(model, rows, 3))]).toEqual([...whole])
    for (const [b, row] of rows.slice(0, 3).entries()) expect([...(await prefill(model, [row]))]).toEqual([...whole.subarray(b * vocabSize, (b + 1) * vocabSize)])
    const [row] = rows as [number[]]
    const alone = await logitsOf(model, [row])
    const padded = model.forward({ inputIds: [[7, 7, ...row, 7], Array.from({ length: row.length + 3 }, (_, i) => 50 + i)], attentionMask: [[0, 0, ...row.map(() => 1), 0], new Array<number>(row.length + 3).fill(1)] })
    expect([...(await padded.toFloat32Array()).subarray(2 * vocabSize, (2 + row.length) * vocabSize)]).toEqual([...alone])
    const reference = await load('fairy-llama', { dtype: 'f32', fp8, decoderLayer: 'reference' })
    expect(maxDifference(await logitsOf(reference, [row]), alone)).toBeLessThan(0.5)
    await reference.dispose()
    await model.dispose()
  })

  it('refuses recipes that inference cannot follow', async () => {
    await expect(load('fairy-llama', { fp8: 'delayed' })).rejects.toMatchObject({ code: 'RECIPE_NOT_CALIBRATED', hint: expect.stringContaining('octet quantize') as string })
    await expect(load('fairy-llama', { fp8: new MXFP8BlockScaling() })).rejects.toMatchObject({ code: 'RECIPE_NOT_SUPPORTED' })
    await expect(load('fairy-llama', { fp8: 'nvfp4' })).rejects.toMatchObject({ code: 'RECIPE_NOT_SUPPORTED' })
    await expect(load('fairy-llama', { fp8: new Float8BlockScaling({ xBlockScalingDim: 2, wBlockScalingDim: 1 }) })).rejects.toMatchObject({ code: 'RECIPE_NOT_SUPPORTED' })
    expect(() => new DelayedScaling({ fp8Format: 'E5M2' })).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  })
})

describe.each(['ct-channel-dynamic', 'ct-tensor-static', 'fbgemm', 'block128'])('llama-fp8-%s', (form) => {
  const name = `variants/llama-fp8-${form}`

  it('keeps codes and scales as stored', async () => {
    const model = await load(name, { dtype: 'f32', fp8: true })
    const file = await openSafetensors(join(fixture(name), 'model.safetensors'))
    for (const [slot, part, segment] of [['self_attn.k_proj', 0, 'key'], ['self_attn.v_proj', 0, 'value'], ['self_attn.o_proj', 1, undefined], ['mlp.up_proj', 2, 'up'], ['mlp.down_proj', 3, undefined]] as const) {
      const stored = model.linears()[4 + part]![1].weight.quantized(segment)
      expect(Buffer.compare(Buffer.from(await stored.data.toBytes()), Buffer.from(await file.read(`model.layers.1.${slot}.weight`)))).toBe(0)
      const scale = file.tensors.has(`model.layers.1.${slot}.weight_scale`) ? 'weight_scale' : 'weight_scale_inv'
      expect([...(await stored.scaleInv.toFloat32Array())]).toEqual([...(await file.readFloat32(`model.layers.1.${slot}.${scale}`))])
    }
    const inputs = form === 'ct-tensor-static' ? await Promise.all(['q', 'k', 'v'].map((p) => file.readFloat32(`model.layers.1.self_attn.${p}_proj.input_scale`))) : []
    expect(model.linears()[4]![1].inputScale).toBe(inputs.length === 0 ? undefined : Math.max(...inputs.map((s) => s[0]!)))
    expect(model.linears()[7]![1].inputRule!.granularity).toBe(form === 'block128' ? 'block1x128' : 'row')
    await file.close()
    await model.dispose()
  })

  it('computes near its de-quantized weights', async () => {
    const { input_ids, attention_mask } = readGolden<VariantGolden>(name)
    const ids = unpadded({ input_ids, attention_mask })[0]!
    const model = await load(name, { dtype: 'f32', fp8: true })
    const want = await goldenTensor(name, 'row0.logits')
    expect(divergence(want, await logitsOf(model, [ids]), model.info.vocabSize)).toBeLessThan(0.01)
    await model.dispose()
  })
})

describe('calibration, FP8 cache and export', () => {
  const batches = [{ inputIds: [golden.greedy_64[0]!] }, { inputIds: [[9, ...golden.greedy_64[1]!.slice(0, 20)]], attentionMask: [[0, ...new Array<number>(20).fill(1)]] }]

  it('takes the largest of all batches, without pads', async () => {
    const model = await load('fairy-llama', { dtype: 'f32' })
    const [both, first, second] = [await calibrate(model, batches), await calibrate(model, [batches[0]!]), await calibrate(model, [{ inputIds: [batches[1]!.inputIds[0]!.slice(1)] }])]
    expect([...both.keys()].sort()).toEqual(model.linears().map(([name]) => `${name}.input_scale`).concat(Array.from({ length: 6 }, (_, i) => ['k', 'v'].map((p) => `layers.${i}.self_attention.${p}_scale`)).flat()).sort())
    for (const [name, scale] of both) expect([name, ...scale]).toEqual([name, ...scale.map((_, i) => Math.max(first.get(name)![i]!, second.get(name)![i]!))])
    await expect(calibrate(model, [])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(calibrate(model, [{ inputIds: [[1, 2]], attentionMask: [[0, 0]] }])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await model.dispose()
  })

  it('looks into layers that run op by op too', async () => {
    const [fused, plain] = [await load('fairy-llama', { dtype: 'f32' }), await load('fairy-llama', { dtype: 'f32', decoderLayer: 'reference' })]
    const [want, got] = [await calibrate(fused, batches), await calibrate(plain, batches)]
    expect([...got.keys()].sort()).toEqual([...want.keys()].sort())
    for (const [name, scales] of want) for (const [i, scale] of scales.entries()) expect(Math.abs(got.get(name)![i]! / scale - 1), name).toBeLessThan(1e-3)
    for (const m of [fused, plain]) await m.dispose()
  })

  it.each<[string, Fp8Option, boolean]>([
    ['by row', true, false],
    ['by row, calibrated', true, true],
    ['delayed', new DelayedScaling(), true],
    ['current', new Float8CurrentScaling({ usePower2Scales: true }), false],
    ['block', new Float8BlockScaling(), true],
    ['head too', { fp8LmHead: true }, false],
    ['head too, calibrated', { fp8LmHead: true }, true],
  ])('an exported model gives the same logits to the bit: %s', async (label, fp8, calibrated) => {
    const plain = await load('fairy-llama', { dtype: 'f32' })
    const calibration = calibrated ? await calibrate(plain, batches) : undefined
    await plain.dispose()
    const model = await load('fairy-llama', { dtype: 'f32', fp8, ...(calibration === undefined ? {} : { calibration }) })
    const dir = await folder()
    await model.exportQuantized(dir, { maxShardSize: '1MB' })
    const again = await load(dir, { dtype: 'f32', fp8: true })
    expect([...(await logitsOf(again, [rows[0]!]))]).toEqual([...(await logitsOf(model, [rows[0]!]))])
    const generate = async (m: TELlamaForCausalLM) => (await m.generate({ inputIds: [rows[1]!], maxNewTokens: 24, ignoreEos: true })).sequences
    expect(await generate(again)).toEqual(await generate(model))
    expect(again.memory().weightsBytes).toBe(model.memory().weightsBytes)
    if (calibrated) expect(again.calibration!.get('layers.3.self_attention.v_scale')).toEqual(calibration!.get('layers.3.self_attention.v_scale'))
    const { quantization_config: quantization } = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')) as { quantization_config: { ignore: string[]; config_groups: Record<string, { targets: string[] }> } }
    expect(quantization).toMatchObject({ quant_method: 'compressed-tensors', format: 'float-quantized', config_groups: { group_0: { weights: { num_bits: 8, type: 'float' } } } })
    expect(quantization.ignore).toEqual(label.startsWith('head') ? [] : ['lm_head'])
    // The head is never calibrated: beside static activations it is a group of its own.
    const targets = Object.values(quantization.config_groups).map((group) => group.targets)
    if (label === 'head too, calibrated') expect([targets.length, targets[0]!.length, targets[1]]).toEqual([2, 42, ['lm_head']])
    else expect(targets).toEqual([['Linear']])
    for (const m of [model, again]) await m.dispose()
  })

  it('a calibration comes from a file too, and belongs to its model', async () => {
    const plain = await load('fairy-llama', {})
    const calibration = await calibrate(plain, batches)
    const nowhere = await folder()
    expect(() => plain.quantizedCheckpoint()).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    await expect(plain.exportQuantized(nowhere)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await plain.dispose()
    const path = join(await folder(), 'calibration.safetensors')
    await writeSafetensors(path, calibrationEntries(calibration))
    const model = await load('fairy-llama', { fp8: 'delayed', calibration: path })
    expect(model.linears().map(([name, part]) => [name, part.inputScale])).toEqual(model.linears().map(([name]) => [name, calibration.get(`${name}.input_scale`)![0]]))
    expect(new Set(model.linears().map(([, part]) => part.weight.quantized(part.weight.segments[0]?.name).granularity))).toEqual(new Set(['tensor']))
    await model.dispose()
    const part = new Map([...calibration].filter(([name]) => !name.startsWith('layers.2.')))
    await expect(load('fairy-llama', { fp8: true, calibration: part })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH' })
    // Of a larger model, with a scale of another shape, and with one that scales nothing: each by name.
    for (const [name, values, said] of [['layers.6.layernorm_mlp.fc1.input_scale', [1], 'has no layers.6'], ['layers.1.self_attention.proj.input_scale', [1, 2], 'proj.input_scale expected [1], received [2]'], ['layers.1.self_attention.proj.input_scale', [0], 'received 0'], ['layers.0.self_attention.k_scale', [NaN], 'received NaN']] as const) {
      const changed = new Map([...calibration, [name, Float32Array.from(values)]])
      for (const fp8 of [true, false]) await expect(load('fairy-llama', { fp8, calibration: changed })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH', received: expect.stringContaining(said) as string })
    }
    await expect(load('variants/llama-headdim', { fp8: 'delayed', calibration: new Map([['layers.0.self_attention.k_scale', Float32Array.of(1)]]) })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH' })
  })

  it('recipe state of a model goes through a file, and steps go on', async () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 4 })
    const run = async (m: TELlamaForCausalLM) => autocast({ recipe }, (fp8) => m.forward({ inputIds: [rows[0]!], fp8 })).toFloat32Array()
    const [first, second] = [await load('fairy-llama', { dtype: 'f32' }), await load('fairy-llama', { dtype: 'f32' })]
    const fresh = await run(first)
    const path = join(await folder(), 'recipe_state.safetensors')
    await writeSafetensors(path, exportRecipeState(first), { metadata: { recipe: JSON.stringify(recipeToJSON(recipe)) } })
    const file = await openSafetensors(path)
    expect(file.tensors.size).toBe(4 * first.linears().length)
    expect(file.tensors.get('layers.5.layernorm_mlp.fc2.input.amax_history')).toMatchObject({ dtype: 'f32', shape: [4] })
    await importRecipeState(second, recipe, file)
    await file.close()
    const [next, again] = [await run(first), await run(second)]
    expect([maxDifference(next, again), maxDifference(next, fresh) > 0]).toEqual([0, true])
    for (const m of [first, second]) await m.dispose()
  })

  it('FP8 tensors without a scale are refused by name', async () => {
    const dir = await folder()
    await cp(fixture('variants/llama-fp8-fbgemm'), dir, { recursive: true })
    const file = await openSafetensors(join(dir, 'model.safetensors'))
    const names = [...file.tensors].filter(([name]) => name !== 'model.layers.0.mlp.up_proj.weight_scale')
    const entries = await Promise.all(names.map(async ([name, { dtype, shape }]) => ({ name, dtype, shape, data: await file.read(name) })))
    await file.close()
    await writeSafetensors(join(dir, 'model.safetensors'), entries, { metadata: { format: 'pt' } })
    for (const fp8 of [true, false]) await expect(load(dir, { fp8 })).rejects.toMatchObject({ code: 'MISSING_SCALE', received: expect.stringContaining('model.layers.0.mlp.up_proj.weight') as string })
  })

  it.each([['llama-fp8-fbgemm', NaN], ['llama-fp8-block128', Infinity], ['llama-fp8-ct-tensor-static', -Infinity]])('a scale that is not finite is refused by name: %s, %d', async (variant, value) => {
    const dir = await folder()
    await cp(fixture(`variants/${variant}`), dir, { recursive: true })
    const file = await openSafetensors(join(dir, 'model.safetensors'))
    const entries = await Promise.all([...file.tensors].map(async ([name, { dtype, shape }]) => ({ name, dtype, shape, data: await file.read(name) })))
    await file.close()
    const broken = entries.find(({ name }) => /layers\.1\.mlp\.down_proj\.weight_scale/.test(name))!
    const bytes = Buffer.from(broken.data)
    if (broken.dtype === 'f32') bytes.writeFloatLE(value, bytes.length - 4)
    else bytes.writeUInt16LE(new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16, bytes.length - 2)
    await writeSafetensors(join(dir, 'model.safetensors'), entries.map((entry) => (entry === broken ? { ...entry, data: bytes } : entry)), { metadata: { format: 'pt' } })
    for (const fp8 of [true, false]) await expect(load(dir, { fp8 })).rejects.toMatchObject({ code: 'MISSING_SCALE', argument: broken.name })
  })

  it.each([[false, 'f32'], [true, 'f32'], [true, 'bf16']] as const)('FP8 cache: decode and prefill agree, paged %s, %s', async (isPaged, dtype) => {
    const plain = await load('fairy-llama', { dtype: 'f32' })
    const calibration = await calibrate(plain, batches)
    await plain.dispose()
    const model = await load('fairy-llama', { dtype, fp8: true, calibration })
    const run = async (chunk: number, kvDtype: 'fp8' | 'f32') => prefill(model, [golden.greedy_64[0]!], chunk, { kvDtype, isPaged, pageSize: 16 })
    const [whole, steps, wide] = [await run(Infinity, 'fp8'), await run(1, 'fp8'), await run(Infinity, 'f32')]
    if (dtype === 'f32') expect([...steps]).toEqual([...whole])
    else expect(divergence(whole, steps, model.info.vocabSize)).toBeLessThan(1e-3)
    expect([...whole]).not.toEqual([...wide])
    // Of one token: of a text, the mean is far below.
    expect(divergence(wide, whole, model.info.vocabSize)).toBeLessThan(0.05)
    await model.dispose()
  })
})

describe('LoRA', () => {
  const name = 'lora-fairy-llama'
  const want = readGolden<{ input_ids: number[][]; greedy_24: number[] }>(name)

  it('an adapter merged at load gives peft’s logits and tokens', async () => {
    const model = await load('fairy-llama', { dtype: 'f32', adapter: fixture(name) })
    expect(maxDifference(await logitsOf(model, want.input_ids), await goldenTensor(name, 'logits'))).toBeLessThan(2e-4)
    const { sequences } = await model.generate({ inputIds: want.input_ids, maxNewTokens: 24, ignoreEos: true })
    expect(sequences[0]!.slice(want.input_ids[0]!.length)).toEqual(want.greedy_24)
    await model.dispose()
  })

  it('merges before it quantizes, also into FP8 checkpoints', async () => {
    const merged = await load('fairy-llama', { dtype: 'f32', adapter: fixture(name) })
    const model = await load('fairy-llama', { dtype: 'f32', adapter: fixture(name), fp8: true })
    const logits = await logitsOf(model, want.input_ids)
    expect(divergence(await logitsOf(merged, want.input_ids), logits, model.info.vocabSize)).toBeLessThan(0.01)
    const plain = await load('fairy-llama', { dtype: 'f32', fp8: true })
    const dir = await folder()
    await plain.exportQuantized(dir)
    const onFp8 = await load(dir, { dtype: 'f32', adapter: fixture(name), fp8: true })
    expect(divergence(await logitsOf(merged, want.input_ids), await logitsOf(onFp8, want.input_ids), model.info.vocabSize)).toBeLessThan(0.02)
    for (const m of [merged, model, plain, onFp8]) await m.dispose()
  })

  it.each(['te', 'reference'] as const)('applied beside the weights it gives peft’s logits and tokens too: %s', async (decoderLayer) => {
    const plain = await load('fairy-llama', { dtype: 'f32' })
    const bytes = plain.memory().weightsBytes
    const unadapted = await logitsOf(plain, want.input_ids)
    await plain.dispose()
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    const model = await load('fairy-llama', { dtype: 'f32', decoderLayer, adapter: fixture(name), adapterMode: 'apply' })
    const logits = await logitsOf(model, want.input_ids)
    expect(maxDifference(logits, await goldenTensor(name, 'logits'))).toBeLessThan(2e-4)
    expect(maxDifference(logits, unadapted)).toBeGreaterThan(0.1)
    for (const graphs of [true, false]) {
      const { sequences } = await model.generate({ inputIds: want.input_ids, maxNewTokens: 24, ignoreEos: true, graphs })
      expect(sequences[0]!.slice(want.input_ids[0]!.length)).toEqual(want.greedy_24)
    }
    // The factors are all that was added: the weights stay bf16 as the file has them.
    const file = await openSafetensors(join(fixture(name), 'adapter_model.safetensors'))
    expect(model.memory().weightsBytes - bytes).toBe([...file.tensors.values()].reduce((sum, { shape }) => sum + 4 * shape.reduce((n, d) => n * d, 1), 0))
    await file.close()
    await model.dispose()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it.each(['f32', 'bf16'] as const)('applied to an FP8 checkpoint it leaves every code as it is: %s', async (dtype) => {
    const plain = await load('fairy-llama', { fp8: true })
    const dir = await folder()
    await plain.exportQuantized(dir)
    const merged = await load('fairy-llama', { dtype: 'f32', adapter: fixture(name) })
    const [base, model] = [await load(dir, { dtype, fp8: true }), await load(dir, { dtype, fp8: true, adapter: fixture(name), adapterMode: 'apply' })]
    for (const [i, [part, linear]] of model.linears().entries()) {
      for (const segment of linear.weight.segments.length === 0 ? [undefined] : linear.weight.segments.map((s) => s.name)) {
        const [a, b] = [linear.weight.quantized(segment), base.linears()[i]![1].weight.quantized(segment)]
        expect([part, Buffer.compare(await a.data.toBytes(), await b.data.toBytes()), Buffer.compare(await a.scaleInv.toBytes(), await b.scaleInv.toBytes())]).toEqual([part, 0, 0])
      }
    }
    const logits = await logitsOf(model, want.input_ids)
    expect(divergence(await logitsOf(merged, want.input_ids), logits, model.info.vocabSize)).toBeLessThan(0.02)
    expect(divergence(await logitsOf(base, want.input_ids), logits, model.info.vocabSize)).toBeGreaterThan(0.02)
    expect(() => model.quantizedCheckpoint()).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', hint: 'merge the adapter' }))
    for (const m of [plain, merged, base, model]) await m.dispose()
  })

  it('is applied in an autocast too, and only a projection can have one', async () => {
    const model = await load('fairy-llama', { dtype: 'f32', adapter: fixture(name), adapterMode: 'apply' })
    const golden = await goldenTensor(name, 'logits')
    const logits = await autocast({ recipe: 'current' }, (fp8) => model.forward({ inputIds: want.input_ids, fp8 })).toFloat32Array()
    expect(divergence(golden, logits, model.info.vocabSize)).toBeLessThan(0.02)
    await model.dispose()
    const dir = await folder()
    await cp(fixture(name), dir, { recursive: true })
    const { vocabSize, hiddenSize } = await readConfig(fixture('fairy-llama'))
    const factors = ([['A', [8, hiddenSize]], ['B', [vocabSize, 8]]] as const).map(([part, shape]) => ({ name: `base_model.model.model.embed_tokens.lora_${part}.weight`, dtype: 'f32' as const, shape, data: new Float32Array(shape[0] * shape[1]) }))
    await writeSafetensors(join(dir, 'adapter_model.safetensors'), factors)
    await expect(load('fairy-llama', { adapter: dir, adapterMode: 'apply' })).rejects.toMatchObject({ code: 'NOT_SUPPORTED', argument: 'model.embed_tokens.weight', hint: 'merge the adapter' })
    await (await load('fairy-llama', { adapter: dir })).dispose()
  })

  it.each([[false, 'f32'], [false, 'bf16'], [true, 'f32']] as const)('leaves modules_to_save as merging does: FP8 %s, %s', async (fp8, dtype) => {
    const dir = await folder()
    await cp(fixture(name), dir, { recursive: true })
    const config = JSON.parse(await readFile(join(dir, 'adapter_config.json'), 'utf8')) as object
    await writeFile(join(dir, 'adapter_config.json'), JSON.stringify({ ...config, modules_to_save: ['embed_tokens', 'k_proj', 'o_proj'] }))
    const { vocabSize, hiddenSize, numKeyValueHeads, headDim, numAttentionHeads } = await readConfig(fixture('fairy-llama'))
    // More bits than bf16 has.
    const value = (i: number): number => Math.round(Math.sin(i) * 2 ** 20) / 2 ** 22
    const saved = ([['model.embed_tokens', [vocabSize, hiddenSize]], ['model.layers.1.self_attn.k_proj', [numKeyValueHeads * headDim, hiddenSize]], ['model.layers.1.self_attn.o_proj', [hiddenSize, numAttentionHeads * headDim]]] as const)
      .map(([module, shape]) => ({ name: `base_model.model.${module}.weight`, slot: `${module}.weight`, dtype: 'f32' as const, shape, data: Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => value(i)) }))
    const file = await openSafetensors(join(fixture(name), 'adapter_model.safetensors'))
    const factors = await Promise.all([...file.tensors].map(async ([tensor, { shape }]) => ({ name: tensor, dtype: 'f32' as const, shape, data: await file.readFloat32(tensor) })))
    await file.close()
    await writeSafetensors(join(dir, 'adapter_model.safetensors'), [...factors, ...saved.map(({ slot: _, ...entry }) => entry)])
    const [merged, applied] = [await load('fairy-llama', { dtype, fp8, adapter: dir }), await load('fairy-llama', { dtype, fp8, adapter: dir, adapterMode: 'apply' })]
    for (const { slot, data } of saved) {
      if (fp8 && slot.includes('layers')) continue
      const [a, b] = [await merged.parameter(slot).toFloat32Array(), await applied.parameter(slot).toFloat32Array()]
      expect([slot, Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer))]).toEqual([slot, 0])
      if (dtype === 'f32') expect(maxDifference(b, data)).toBe(0)
    }
    for (const [path, weight] of applied.weights) {
      if (weight.shape.length < 2 || weight.rule !== undefined) continue
      const replaced = path === 'embed_tokens.weight' || /layers\.1\.self_attention\.(?:layernorm_qkv|proj)\.weight/.test(path)
      expect([path, weight.dtype]).toEqual([path, replaced ? dtype : 'bf16'])
    }
    for (const m of [merged, applied]) await m.dispose()
  })

  it('of another model is refused', async () => {
    for (const adapterMode of ['merge', 'apply'] as const) await expect(load('variants/llama-headdim', { adapter: fixture(name), adapterMode })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH' })
    const dir = await folder()
    await writeFile(join(dir, 'adapter_config.json'), '{"peft_type": "LORA", "r": 8}')
    await expect(load('fairy-llama', { adapter: dir })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' })
  })
})

describe('captured', () => {
  it.each<[string, Fp8Option]>([['by row', true], ['block', 'block']])('an FP8 step over an FP8 cache replays to the bit, and outlives its graph: %s', async (_, fp8) => {
    const model = await load('fairy-llama', { dtype: 'f32', fp8 })
    model.reserve(64)
    const [row] = rows as [number[]]
    const decode = async (captured: boolean) => {
      const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 64, kvDtype: 'fp8' })
      const token = Tensor.from(Int32Array.of(row[0]!), { shape: [1], dtype: 'i32', device })
      params.preStep(new Map([[0, 1]]))
      // Buffers between steps are made by the first one: a graph then only uses them.
      model.step(token, params).dispose()
      const graph = captured ? device.queue.capture(() => model.step(token, params)) : undefined
      const seen: number[][] = []
      for (const id of row) {
        params.preStep(new Map([[0, 1]]))
        token.write(Int32Array.of(id))
        graph?.replay()
        const logits = graph?.value ?? model.step(token, params)
        seen.push([...(await logits.toFloat32Array())])
        if (graph === undefined) logits.dispose()
      }
      await graph?.dispose()
      for (const owner of [token, params]) owner.dispose()
      return seen
    }
    const first = await decode(true)
    expect(await decode(false)).toEqual(first)
    expect(await decode(true)).toEqual(first)
    await model.dispose()
  })
})
