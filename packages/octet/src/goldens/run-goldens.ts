/** All public goldens on one device: `octet verify --goldens DIR`. */
import { readFile, readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { openDevice, type Device } from '@octet-llm/kernels'
import type { GenerateOptions, LanguageModel } from '../language-model.js'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import { distanceChecks, drawChecks, goldenTensor, hiddenChecks, logitChecks, Sample, scoreChecks, stepChecks, tokenChecks, type Batch, type Check, type Finding } from './checks.js'
import type { WalkRow } from './walk.js'

/** Bars of a run in bf16: nats a token against the float32 model of this device, and the largest difference to the golden logits. */
const BF16 = { nats: 5e-4, logits: 0.2 } as const
/** Of an FP8 run (weights by row, activations by token), in nats a token against the float32 model of this device. */
const FP8_NATS = 1e-2

export interface GoldenOptions {
  readonly device: 'cpu' | 'cuda' | `cuda:${number}`
  /** Only models whose folder has this word. */
  readonly only?: string
  readonly signal?: AbortSignal
  readonly onCheck?: (name: string, finding: Finding) => void
}

export interface GoldenResult {
  readonly checks: number
  readonly failures: readonly { readonly name: string; readonly fault: string }[]
}

interface RichGolden {
  readonly token_ids: readonly (readonly number[])[]
  readonly left_padded: Batch
  readonly greedy_64: readonly (readonly number[])[]
  readonly [setting: string]: unknown
}
interface BriefGolden extends Batch {
  readonly greedy_24: readonly (readonly number[])[]
}

/** The other forms of a run: its tokens must not move. */
const FORMS: Readonly<Record<string, GenerateOptions>> = {
  'op by op': { graphs: false },
  paged: { kvCache: { isPaged: true } },
  'pages of 16, op by op': { graphs: false, kvCache: { isPaged: true, pageSize: 16 } },
  'one step per sync': { stepsPerSync: 1 },
}
const SETTINGS: Readonly<Record<string, GenerateOptions>> = {
  beam4: { numBeams: 4 },
  beam4_len2_early: { numBeams: 4, lengthPenalty: 2, earlyStopping: true },
  beam3_return3: { numBeams: 3, numReturnSequences: 3 },
  'greedy_rep1.3': { repetitionPenalty: 1.3 },
  greedy_no_repeat_3gram: { noRepeatNgramSize: 3 },
}

/**
 * Runs every golden of a folder laid out as this repository's `fixtures`.
 * @throws OctetError `DEVICE_NOT_FOUND`; `FILE_NOT_FOUND` for a folder without goldens; the signal's reason
 */
export async function runGoldens(dir: string, { device: name, only, signal, onCheck }: GoldenOptions): Promise<GoldenResult> {
  const models = (await goldenModels(dir)).filter(({ title }) => only === undefined || title.includes(only))
  if (models.length === 0) throw new OctetError('FILE_NOT_FOUND', { op: 'verify', argument: '--goldens', expected: 'a folder with golden-*, variants or lora-* folders', received: dir })
  const device = await openDevice(name)
  const failures: { name: string; fault: string }[] = []
  let checks = 0
  try {
    for (const { title, checksOf } of models) {
      for await (const check of checksOf(device)) {
        signal?.throwIfAborted()
        const finding = await check.run().catch((error: unknown): Finding => {
          if (!OctetError.is(error)) throw error
          return { fault: error.message }
        })
        checks++
        if (finding.fault !== null) failures.push({ name: `${title}: ${check.name}`, fault: finding.fault })
        onCheck?.(`${title}: ${check.name}`, finding)
      }
    }
  } finally {
    await device.dispose()
  }
  return { checks, failures }
}

interface GoldenModel {
  readonly title: string
  checksOf(device: Device): AsyncGenerator<Check>
}

async function goldenModels(dir: string): Promise<GoldenModel[]> {
  const folders = await foldersOf(dir)
  const rich = folders.filter((name) => name.startsWith('golden-')).map((name) => ({ title: name.slice(7), checksOf: (device: Device) => richChecks(device, join(dir, name.slice(7)), join(dir, name)) }))
  const variants = (await foldersOf(join(dir, 'variants'))).map((name) => ({ title: name, checksOf: (device: Device) => variantChecks(device, join(dir, 'variants', name)) }))
  const adapters = folders.filter((name) => name.startsWith('lora-')).map((name) => ({ title: name, checksOf: (device: Device) => adapterChecks(device, join(dir, name.slice(5)), join(dir, name)) }))
  return [...rich, ...variants, ...adapters]
}

async function foldersOf(dir: string): Promise<string[]> {
  if ((await stat(dir).catch(() => null))?.isDirectory() !== true) return []
  const entries = await readdir(dir, { withFileTypes: true })
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name).sort()
}

async function readGolden<T>(folder: string): Promise<T> {
  return JSON.parse(await readFile(join(folder, 'golden.json'), 'utf8')) as T
}

/** Runs the checks on a model that lives as long as they do. */
async function* withModel(folder: string, options: LoadModelOptions, checks: (llm: LanguageModel) => Iterable<Check>): AsyncGenerator<Check> {
  const llm = await loadModel(folder, options)
  try {
    yield* checks(llm)
  } finally {
    await llm.dispose()
  }
}

async function* richChecks(device: Device, folder: string, goldens: string): AsyncGenerator<Check> {
  const golden = await readGolden<RichGolden>(goldens)
  const batch = golden.left_padded
  const ids = golden.token_ids[0]!
  const want = (): Promise<Float32Array> => goldenTensor(goldens, 'prompt0.logits')
  // Three rows of unequal length: a bucket of four has an idle one.
  const rows = golden.token_ids.slice(0, 3).map((prompt, b): WalkRow => ({ prompt, fed: golden.greedy_64[b]!.slice(0, 40) }))
  const sample = new Sample(golden.token_ids.map((prompt, b) => ({ prompt, fed: golden.greedy_64[b]! })))
  yield* withModel(folder, { device, dtype: 'f32' }, function* (llm) {
    yield* logitChecks(llm, goldens, 'prompt0.logits', ids, batch)
    yield* hiddenChecks(llm, goldens, ids)
    yield* sample.checks(llm)
    yield* tokenChecks(llm, batch, 'greedy', golden.greedy_64, { maxNewTokens: 64, ignoreEos: true }, FORMS)
    yield* settingChecks(llm, golden)
    yield* drawChecks(llm, batch, FORMS)
    yield* stepChecks(llm, rows, 'f32')
  })
  yield* withModel(folder, { device, dtype: 'bf16' }, function* (llm) {
    yield* distanceChecks(llm, 'bf16 logits', want, ids, BF16.logits)
    yield* sample.divergence(llm, 'bf16 distributions', BF16.nats)
    yield* stepChecks(llm, rows, 'bf16')
  })
  for (const fp8 of [true, 'block'] as const) {
    yield* withModel(folder, { device, dtype: 'f32', fp8 }, (llm) => sample.divergence(llm, `FP8 ${fp8 === true ? 'by row' : fp8}`, FP8_NATS))
    yield* withModel(folder, { device, dtype: 'bf16', fp8 }, function* (llm) {
      yield* sample.divergence(llm, `FP8 ${fp8 === true ? 'by row' : fp8}, bf16`, FP8_NATS)
      yield* stepChecks(llm, rows, 'bf16', 'fp8')
    })
  }
}

function* settingChecks(llm: LanguageModel, golden: RichGolden): Generator<Check> {
  const batch = golden.left_padded
  for (const [name, setting] of Object.entries(SETTINGS)) {
    const { ids, scores } = golden[name] as { ids: number[][]; scores: number[] | null }
    const options = { ...setting, maxNewTokens: 32, ignoreEos: true }
    yield* tokenChecks(llm, batch, name, ids, options)
    if (scores !== null) yield* scoreChecks(llm, batch, name, scores, options)
  }
  for (const [name, setting] of Object.entries({ eos_is_period: {}, beam4_eos_is_period: { numBeams: 4 } } satisfies Record<string, GenerateOptions>)) {
    const { ids, eos_token_id: eosTokenId } = golden[name] as { ids: number[][]; eos_token_id: number }
    yield* tokenChecks(llm, batch, name, ids, { ...setting, maxNewTokens: 40, eosTokenId })
  }
}

async function* variantChecks(device: Device, folder: string): AsyncGenerator<Check> {
  const golden = await readGolden<BriefGolden>(folder)
  const ids = golden.input_ids[0]!
  const sample = new Sample(golden.input_ids.map((row, b) => ({ prompt: row.filter((_, i) => golden.attention_mask[b]![i] === 1), fed: golden.greedy_24[b]! })))
  yield* withModel(folder, { device, dtype: 'f32' }, function* (llm) {
    yield* logitChecks(llm, folder, 'row0.logits', ids, golden)
    yield* sample.checks(llm)
    yield* tokenChecks(llm, golden, 'greedy', golden.greedy_24, { maxNewTokens: 24, ignoreEos: true }, { 'op by op': { graphs: false }, paged: { kvCache: { isPaged: true } } })
  })
  yield* withModel(folder, { device, dtype: 'bf16' }, (llm) => sample.divergence(llm, 'bf16 distributions', BF16.nats))
  if (!basename(folder).includes('fp8')) return
  // The stored codes, multiplied as codes.
  for (const dtype of ['f32', 'bf16'] as const) yield* withModel(folder, { device, dtype, fp8: true }, (llm) => sample.divergence(llm, `stored FP8, ${dtype}`, FP8_NATS))
}

async function* adapterChecks(device: Device, folder: string, adapter: string): AsyncGenerator<Check> {
  const { input_ids: ids, greedy_24: greedy } = await readGolden<{ input_ids: number[][]; greedy_24: number[] }>(adapter)
  yield* withModel(folder, { device, dtype: 'f32', adapter }, function* (llm) {
    yield* distanceChecks(llm, 'logits', () => goldenTensor(adapter, 'logits'), ids[0]!, 2e-4)
    yield* tokenChecks(llm, { input_ids: ids, attention_mask: ids.map((row) => row.map(() => 1)) }, 'greedy', [greedy], { maxNewTokens: 24, ignoreEos: true })
  })
}
