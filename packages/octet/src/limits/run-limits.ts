/** What a device does at its edges: `octet verify --limits DIR`. Leaks, refusals, the order of ops, batches and prompts of many sizes, and last a fault. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { Tensor, describeBackends, fill, openDevice, type Device } from '@octet-llm/kernels'
import { runSequences, writeAstray } from '@octet-llm/kernels/contracts'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import { randomModel } from '../random-model.js'

export interface LimitOptions {
  readonly device: 'cpu' | 'cuda' | `cuda:${number}`
  /** Checkpoint that is loaded and disposed again and again. */
  readonly model: string
  /** Loads. Default 20. */
  readonly cycles?: number
  /** Default 1 to 256. */
  readonly batches?: readonly number[]
  /** Default 1 to 8192. */
  readonly prompts?: readonly number[]
  /** Runs of every sequence of ops without a synchronisation. Default 400. */
  readonly repeats?: number
  readonly signal?: AbortSignal
  readonly onCheck?: (name: string, fault: string | null) => void
}

/** A model small enough for any batch, with positions for any prompt. */
const SMALL = {
  model_type: 'llama', architectures: ['LlamaForCausalLM'], vocab_size: 512, hidden_size: 256, intermediate_size: 512, num_hidden_layers: 2,
  num_attention_heads: 4, num_key_value_heads: 2, head_dim: 64, max_position_embeddings: 8320, rms_norm_eps: 1e-5, rope_theta: 10000,
  hidden_act: 'silu', tie_word_embeddings: true, bos_token_id: 0, eos_token_id: 1,
}
const BATCHES = [1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 33, 64, 65, 100, 127, 128, 129, 200, 255, 256]
const PROMPTS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 2048, 4095, 8191, 8192]

type Form = readonly [title: string, options: Pick<LoadModelOptions, 'dtype' | 'fp8' | 'kvCache'>]
const FORMS: readonly Form[] = [
  ['bf16', { dtype: 'bf16' }],
  ['FP8 with an FP8 cache', { dtype: 'bf16', fp8: true, kvCache: { dtype: 'e4m3', isPaged: true } }],
]

/** Runs all of it; the names of what failed. @throws OctetError `DEVICE_NOT_FOUND` and those of loading */
export async function runLimits(options: LimitOptions): Promise<{ checks: number; failures: readonly string[] }> {
  const failures: string[] = []
  let checks = 0
  const check = async (name: string, run: () => Promise<string | null>): Promise<void> => {
    options.signal?.throwIfAborted()
    const fault = await run().catch((error: unknown) => {
      if (!OctetError.is(error)) throw error
      return `${error.code}: ${error.message}`
    })
    checks++
    if (fault !== null) failures.push(name)
    options.onCheck?.(name, fault)
  }
  const cycles = options.cycles ?? 20
  await check(`${cycles} loads leave no memory behind`, () => cycle(options, cycles))
  await check('a tensor that cannot fit is refused with its bytes', () => withDevice(options, (device) => refusal(device, () => Tensor.empty([2 ** 44], { dtype: 'u8', device }), 2 ** 44)))
  await check('a cache that cannot fit is refused with its bytes', () => hugeCache(options))
  await withDevice(options, async (device) => {
    const result = await runSequences(device, {
      repeats: options.repeats,
      onCheck: (name, fault) => {
        options.signal?.throwIfAborted()
        options.onCheck?.(name, fault)
      },
    })
    checks += result.checks
    failures.push(...result.failures)
    return null
  })
  for (const form of FORMS) await sizes(form, options, check)
  if (options.device !== 'cpu') await check('after a fault everything is DEVICE_LOST', () => withDevice(options, lost))
  return { checks, failures }
}

async function withDevice(options: LimitOptions, run: (device: Device) => Promise<string | null>): Promise<string | null> {
  const device = await openDevice(options.device)
  try {
    return await run(device)
  } finally {
    await device.dispose()
  }
}

/** Bytes of the GPU that nobody holds; of a CPU device those that its own tensors hold, as a loss. */
function freeBytes({ device }: LimitOptions): number | null {
  const { cuda } = describeBackends()
  return device === 'cpu' || !cuda.available ? null : (cuda.devices.find(({ name }) => name === device)?.freeBytes ?? cuda.devices[0]!.freeBytes)
}

/** Loads, writes and disposes; the driver's own memory settles in the first two rounds. */
async function cycle(options: LimitOptions, cycles: number): Promise<string | null> {
  let settled: number | null = null
  for (let i = 0; i < cycles; i++) {
    const device = await openDevice(options.device)
    const llm = await loadModel(options.model, { device, dtype: 'bf16' })
    await llm.generate({ inputIds: [[1, 2, 3]] }, { maxNewTokens: 8, ignoreEos: true }).result()
    await llm.dispose()
    await device.synchronize()
    const { allocatedBytes } = device.memoryStats()
    await device.dispose()
    if (allocatedBytes !== 0) return `${allocatedBytes} bytes are still allocated after dispose()`
    if (i === 1) settled = freeBytes(options)
  }
  const now = freeBytes(options)
  return settled !== null && now !== null && now < settled ? `the device has ${settled - now} bytes less than after the second load` : null
}

/** The request, of at least `bytes`, must be refused with its bytes, and the device must go on. */
async function refusal(device: Device, request: () => unknown, bytes: number): Promise<string | null> {
  try {
    request()
    return 'was granted'
  } catch (error) {
    if (!OctetError.is(error, 'OUT_OF_MEMORY')) throw error
    const named = [...error.message.matchAll(/(\d+) bytes/g)].map(([, digits]) => Number(digits))
    if (Math.max(0, ...named) < bytes) return `does not name at least ${bytes} bytes: ${error.message}`
  }
  const x = Tensor.zeros([4], { dtype: 'f32', device })
  const values = await x.toFloat32Array()
  x.dispose()
  return values.every((v) => v === 0) ? null : 'the device does not go on'
}

async function hugeCache(options: LimitOptions): Promise<string | null> {
  const llm = await loadModel(options.model, { device: options.device, dtype: 'bf16' })
  try {
    const { numKvHeads, headDim } = llm.info
    const totalNumPages = 2 ** 24
    const bytes = totalNumPages * 64 * numKvHeads * headDim * 2
    const request = (): void => llm.model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 64, isPaged: true, totalNumPages }).dispose()
    return await refusal(llm.device, request, bytes)
  } finally {
    await llm.dispose()
  }
}

/** Greedy tokens of every batch and prompt; a prompt gives the same tokens twice. */
async function sizes([title, form]: Form, options: LimitOptions, check: (name: string, run: () => Promise<string | null>) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'octet-limits-'))
  try {
    await writeFile(join(dir, 'config.json'), JSON.stringify(SMALL))
    const llm = await randomModel(dir, { device: options.device, ...form })
    const tokensOf = async (inputIds: number[][], maxNewTokens: number): Promise<number[][]> => (await llm.generate({ inputIds }, { maxNewTokens, ignoreEos: true }).result()).tokens as number[][]
    const row = (length: number, b: number): number[] => Array.from({ length }, (_, i) => 2 + ((i * 37 + b * 11 + (i >> 4) * 5) % 509))
    const whole = (tokens: number[][], rows: number, count: number): string | null =>
      tokens.length === rows && tokens.every((ids) => ids.length === count && ids.every((id) => id >= 0 && id < SMALL.vocab_size)) ? null : 'gave other tokens than asked for'
    try {
      for (const batch of options.batches ?? BATCHES) {
        await check(`${title}: batch ${batch}`, async () => whole(await tokensOf(Array.from({ length: batch }, (_, b) => row(5 + (b % 7), b)), 6), batch, 6))
      }
      for (const length of options.prompts ?? PROMPTS) {
        await check(`${title}: prompt ${length}`, async () => {
          const [first, again] = [await tokensOf([row(length, 0)], 4), await tokensOf([row(length, 0)], 4)]
          return whole(first, 1, 4) ?? (JSON.stringify(first) === JSON.stringify(again) ? null : 'a second run gives other tokens')
        })
      }
    } finally {
      await llm.dispose()
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Writes far outside every allocation: the driver ends the context, and the device says so from then on. */
async function lost(device: Device): Promise<string | null> {
  const x = Tensor.zeros([4], { dtype: 'f32', device })
  const codes: string[] = []
  const attempt = async (run: () => unknown): Promise<void> => {
    codes.push(await Promise.resolve().then(run).then(() => 'success', (error: unknown) => (OctetError.is(error) ? error.code : String(error))))
  }
  writeAstray(device)
  await attempt(() => device.synchronize())
  await attempt(() => fill({ out: x, value: 1 }))
  await attempt(() => device.synchronize())
  return codes.every((code) => code === 'DEVICE_LOST') ? null : `gave ${codes.join(', ')}`
}
