/**
 * `octet bench fp8-quality`: what FP8 costs in quality. The same tokens run through the bf16 model and through every way of
 * FP8, over text that the bf16 model itself sampled and over given texts; static scales, and the inputs whose products weights
 * are rounded for, come from another sample.
 */
import { readFile } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { openDevice, type Device } from '@octet-llm/kernels'
import { calibrate, DecoderForCausalLM, type Calibration, type Fp8Option, type InputMoments } from '@octet-llm/transformer'
import type { LanguageModel } from '../language-model.js'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import { momentsFor, type Rounding } from '../quantize/rounding.js'
import { describeRun, type QualityRun } from './quality-run.js'
import { asReference, DivergenceMeter, scoreWindows, type Divergence } from './quality-score.js'
import { cutWindows, sampleWindows, type TokenWindows } from './quality-text.js'

export interface QualityOptions {
  /** Folders or hub names of checkpoints. */
  readonly models: readonly string[]
  /** Bytes of each of the two samples: one calibrates, the other is scored. */
  readonly bytes: number
  /** Text files that are scored beside the sample where they exist. */
  readonly texts: readonly string[]
  /** Tokens of a window. */
  readonly window: number
  readonly seed: number
  /** Of weights. Default: compensated where the device can. */
  readonly rounding?: Rounding | undefined
  readonly device?: LoadModelOptions['device']
  readonly threads?: number
  readonly isa?: LoadModelOptions['isa']
  readonly signal: AbortSignal
  readonly note: (line: string) => void
}

/** Most that a way of FP8 may lose. */
export interface QualityBar {
  /** |perplexity / the reference's - 1| */
  readonly perplexity: number
  readonly kl: number
}

export interface QualityRow extends Divergence {
  readonly bench: 'fp8-quality'
  readonly model: string
  /** `sample`, or the name of a text file. */
  readonly text: string
  /** Tokens whose successors were predicted, and bytes of the text. */
  readonly tokens: number
  readonly bytes: number
  readonly variant: string
  readonly kv: 'bf16' | 'fp8'
  /** What ran, read back from the model and its cache. */
  readonly ran: QualityRun
  /** Perplexity of bf16 weights over a bf16 cache, and the relative change from it. */
  readonly reference: number
  readonly change: number
  readonly must: QualityBar
  readonly goal: QualityBar
  /** The bars that the row keeps. */
  readonly verdict: 'goal' | 'must' | 'missed'
}

interface Variant {
  readonly name: string
  readonly fp8: Fp8Option
  /** Which static scales the model is given. */
  readonly scales: 'all' | 'cache'
}

/** The ways of FP8 that inference has; `scales` tells which static ones a way is given, an FP8 cache has its own in each. */
const VARIANTS: readonly Variant[] = [
  { name: 'bf16 weights', fp8: false, scales: 'cache' },
  { name: 'per row + per token', fp8: true, scales: 'cache' },
  { name: 'per row + static', fp8: true, scales: 'all' },
  { name: 'per tensor + static', fp8: 'delayed', scales: 'all' },
  { name: '128x128 + 1x128', fp8: 'block', scales: 'cache' },
]

const MUST: QualityBar = { perplexity: 0.01, kl: 0.01 }
const MUST_KV_ALONE: QualityBar = { perplexity: 0.005, kl: 0.01 }
const half = ({ perplexity, kl }: QualityBar): QualityBar => ({ perplexity: perplexity / 2, kl: kl / 2 })

/** Windows of one prefill: enough for threads to share, few enough for logits to stay small. */
const BATCH = 16

interface GivenText {
  readonly name: string
  readonly text: string
}

interface Text extends TokenWindows {
  readonly name: string
}

/**
 * Rows in the order of models, texts, variants and caches, and the texts that were left out because they are not there.
 * @throws OctetError what loading throws; the signal's reason
 */
export async function benchQuality(options: QualityOptions): Promise<{ rows: QualityRow[]; absent: string[] }> {
  const { texts, absent } = await readTexts(options.texts)
  for (const path of absent) options.note(`${path} is not there: it is left out`)
  const owned = typeof options.device === 'object' ? undefined : await openDevice(options.device ?? 'cpu', { threads: options.threads, isa: options.isa })
  const device = owned ?? (options.device as Device)
  try {
    const rows: QualityRow[] = []
    for (const model of options.models) rows.push(...(await measureModel(model, texts, device, options)))
    return { rows, absent }
  } finally {
    await owned?.dispose()
  }
}

/** Texts that exist, and the paths of those that do not. */
async function readTexts(paths: readonly string[]): Promise<{ texts: GivenText[]; absent: string[] }> {
  const texts: GivenText[] = []
  const absent: string[] = []
  for (const path of paths) {
    try {
      texts.push({ name: basename(path), text: await readFile(path, 'utf8') })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      absent.push(path)
    }
  }
  return { texts, absent }
}

async function measureModel(source: string, given: readonly GivenText[], device: Device, options: QualityOptions): Promise<QualityRow[]> {
  const { seed, bytes, window, signal, note } = options
  const name = basename(resolve(source))
  const models: LanguageModel[] = []
  let moments: InputMoments | undefined
  const load = async (rest: LoadModelOptions): Promise<LanguageModel> => {
    const llm = await loadModel(source, { ...rest, device, dtype: 'bf16', signal })
    models.push(llm)
    return llm
  }
  try {
    note(`${name}: sampling ${bytes} bytes to calibrate on and ${bytes} to score`)
    const plain = await load({})
    const learnt = await sampleWindows(plain, { seed: seed + 1, bytes, window, signal })
    moments = momentsFor(options.rounding, device)
    const calibration = await calibrate(decoderOf(plain), batches(learnt.windows).map(padded), { moments })
    const texts: Text[] = [{ name: 'sample', ...(await sampleWindows(plain, { seed, bytes, window, signal })) }]
    for (const { name: file, text } of given) texts.push({ name: file, ...(await cutWindows(plain, text, window)) })
    const variants: { variant: Variant; llm: LanguageModel }[] = []
    for (const variant of VARIANTS) {
      const scales = variant.scales === 'all' ? calibration : cacheScales(calibration)
      variants.push({ variant, llm: await load({ fp8: variant.fp8, calibration: scales, moments }) })
    }
    const rows: QualityRow[] = []
    for (const text of texts) {
      note(`${name}: ${text.name}, ${text.windows.length} windows`)
      rows.push(...(await measureText(name, text, plain, variants, signal)))
    }
    return rows
  } finally {
    moments?.dispose()
    for (const llm of models) await llm.dispose()
  }
}

async function measureText(model: string, text: Text, plain: LanguageModel, variants: readonly { variant: Variant; llm: LanguageModel }[], signal: AbortSignal): Promise<QualityRow[]> {
  const maxSequenceLength = text.windows.reduce((most, window) => Math.max(most, window.length), 0)
  const paramsOf = (llm: LanguageModel, kv: 'bf16' | 'fp8') => llm.model.createInferenceParams({ maxBatchSize: BATCH, maxSequenceLength, kvDtype: kv })
  const runs = variants.flatMap(({ variant, llm }) =>
    (variant.fp8 === false ? (['fp8'] as const) : (['bf16', 'fp8'] as const)).map((kv) => ({ variant, llm, kv, params: paramsOf(llm, kv), meter: new DivergenceMeter() })),
  )
  const own = { params: paramsOf(plain, 'bf16'), meter: new DivergenceMeter() }
  try {
    for (const windows of batches(text.windows)) {
      signal.throwIfAborted()
      const reference = asReference(await scoreWindows(plain.model, own.params, windows))
      own.meter.add(reference, reference)
      for (const { llm, params, meter } of runs) meter.add(reference, await scoreWindows(llm.model, params, windows))
    }
    const reference = own.meter.result().perplexity
    const tokens = text.windows.reduce((sum, window) => sum + window.length - 1, 0)
    const rows: QualityRow[] = []
    for (const { variant, llm, kv, params, meter } of runs) {
      const divergence = meter.result()
      const change = divergence.perplexity / reference - 1
      const must = variant.fp8 === false ? MUST_KV_ALONE : MUST
      rows.push({
        bench: 'fp8-quality', model, text: text.name, tokens, bytes: text.bytes, variant: variant.name, kv,
        ...divergence, reference, change, must, goal: half(must), verdict: verdictOf(change, divergence.kl.mean, must),
        ran: await describeRun(decoderOf(llm), params),
      })
    }
    return rows
  } finally {
    for (const { params } of [...runs, own]) params.dispose()
  }
}

function verdictOf(change: number, kl: number, must: QualityBar): QualityRow['verdict'] {
  const within = (bar: QualityBar) => Math.abs(change) <= bar.perplexity && kl <= bar.kl
  return within(half(must)) ? 'goal' : within(must) ? 'must' : 'missed'
}

function decoderOf({ model, folder }: LanguageModel): DecoderForCausalLM {
  if (model instanceof DecoderForCausalLM) return model
  throw new OctetError('UNSUPPORTED_MODEL', { op: 'bench', argument: '--model', expected: 'a decoder whose projections have names', received: folder })
}

/** The scales of keys and values alone. */
function cacheScales(calibration: Calibration): Calibration {
  return new Map([...calibration].filter(([name]) => !name.endsWith('.input_scale')))
}

function batches<T>(items: readonly T[]): T[][] {
  return Array.from({ length: Math.ceil(items.length / BATCH) }, (_, i) => items.slice(i * BATCH, (i + 1) * BATCH))
}

/** Windows of unlike lengths as `forward` takes them. */
function padded(windows: readonly (readonly number[])[]): { inputIds: number[][]; attentionMask: number[][] } {
  const width = Math.max(...windows.map((window) => window.length))
  const fill = (row: readonly number[], by: number) => [...row, ...Array.from({ length: width - row.length }, () => by)]
  return { inputIds: windows.map((window) => fill(window, 0)), attentionMask: windows.map((window) => fill(window.map(() => 1), 0)) }
}
