/** `octet bench generate` and `octet bench prefill`: a whole model, with random weights or a checkpoint's. */
import type { CallOptions } from '@octet-llm/generation'
import type { Device } from '@octet-llm/kernels'
import type { KvDType } from '@octet-llm/kv-cache'
import type { DecoderForCausalLM } from '@octet-llm/transformer'
import type { LanguageModel } from '../language-model.js'
import { describeDevice, measureCeilings, type BenchDevice, type Ceilings } from './device-timer.js'
import { median, spread } from './measure.js'

interface ModelRow {
  readonly hardware: BenchDevice
  readonly ceilings: Ceilings
  readonly model: string
  readonly fp8: boolean
  readonly kv: string
  readonly batch: number
  readonly prompt: number
  readonly repeats: number
  /** Seconds until the weights were on the device, the device's own start included. */
  readonly loadSeconds: number
  readonly weightsBytes: number
  readonly peakBytes: number
  /** Whether every repeat gave the same tokens. */
  readonly repeatable: boolean
  readonly spread: number
  /** Variants of the kernels that ran last. */
  readonly kernels: Readonly<Record<string, string>>
}

export interface GenerateRow extends ModelRow {
  readonly bench: 'generate'
  readonly newTokens: number
  /** The whole call: prefill and decoding, without loading. Medians. */
  readonly seconds: number
  readonly prefillMs: number
  /** Milliseconds of a decode step over the batch. */
  readonly stepMs: number
  readonly tokensPerS: number
  /** Seconds from the start of loading to the first token of the first call. */
  readonly firstTokenSeconds: number
  /** Milliseconds that a step takes at least: every weight and the mean context read once. */
  readonly floorStepMs: number
  readonly share: number
}

export interface PrefillRow extends ModelRow {
  readonly bench: 'prefill'
  readonly ms: number
  readonly tokensPerS: number
  /** Milliseconds that the projections' arithmetic takes at least. */
  readonly floorMs: number
  readonly share: number
}

export interface ModelBenchOptions {
  /** What it is called in the row. */
  readonly name: string
  readonly fp8: boolean
  readonly batch: number
  /** Tokens of each prompt. */
  readonly prompt: number
  /** Generate only. */
  readonly newTokens: number
  readonly kv: KvDType | undefined
  /** Timed runs, after one that warms up. */
  readonly repeats: number
  readonly graphs: boolean
  readonly stepsPerSync: number | undefined
  readonly signal: AbortSignal
}

/** Prompts of ordinary ids, no two rows alike. */
function prompts(vocabSize: number, batch: number, length: number): number[][] {
  return Array.from({ length: batch }, (_, b) => Array.from({ length }, (_, i) => 3 + ((i * 7919 + b * 104729) % (vocabSize - 3))))
}

interface Run {
  readonly seconds: number
  readonly prefill: number
  readonly decode: number
  readonly tokens: string
}

async function runOnce(llm: LanguageModel, options: ModelBenchOptions, newTokens: number): Promise<Run> {
  const { batch, prompt, kv, graphs, stepsPerSync, signal } = options
  const call: CallOptions = {
    maxNewTokens: newTokens, ignoreEos: true, doSample: false, graphs, signal,
    ...(stepsPerSync === undefined ? {} : { stepsPerSync }),
    ...(kv === undefined ? {} : { kvCache: { dtype: kv } }),
  }
  const start = performance.now()
  const { tokens, timings } = await llm.generate({ inputIds: prompts(llm.info.vocabSize, batch, prompt) }, call).result()
  return { seconds: (performance.now() - start) / 1e3, prefill: timings.prefill_s, decode: timings.decode_s, tokens: JSON.stringify(tokens) }
}

export async function benchGenerate(llm: LanguageModel, options: ModelBenchOptions): Promise<GenerateRow> {
  const { batch, prompt, newTokens } = options
  const first = await runOnce(llm, options, newTokens)
  const { runs, base } = await repeat(llm, options, newTokens, first)
  const steps = Math.max(1, newTokens - 1)
  const stepMs = (median(runs.map((run) => run.decode)) / steps) * 1e3
  const { numLayers, numKvHeads, headDim, vocabSize, hiddenSize, dtype } = llm.info
  const kvBytes = batch * (prompt + newTokens / 2) * 2 * numLayers * numKvHeads * headDim * itemBytes(options.kv ?? dtype)
  // An embedding that is not the head too is looked up, not read.
  const table = decoderOf(llm).weights.has('lm_head.weight') ? vocabSize * hiddenSize * itemBytes(dtype) : 0
  const floorStepMs = (base.weightsBytes - table + kvBytes) / base.ceilings.GBPerS / 1e6
  return {
    bench: 'generate', ...base, newTokens,
    seconds: median(runs.map((run) => run.seconds)),
    prefillMs: median(runs.map((run) => run.prefill)) * 1e3,
    stepMs,
    tokensPerS: (batch * 1e3) / stepMs,
    firstTokenSeconds: llm.loadSeconds + first.prefill,
    floorStepMs,
    share: floorStepMs / stepMs,
  }
}

export async function benchPrefill(llm: LanguageModel, options: ModelBenchOptions): Promise<PrefillRow> {
  const { batch, prompt } = options
  const first = await runOnce(llm, options, 1)
  const { runs, base } = await repeat(llm, options, 1, first)
  const ms = median(runs.map((run) => run.prefill)) * 1e3
  const matrices = decoderOf(llm).slots().filter(({ name, shape }) => name.startsWith('model.layers.') && shape.length === 2)
  const parameters = matrices.reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0)
  const rate = (options.fp8 ? base.ceilings.e4m3 : null) ?? base.ceilings.bf16
  const floorMs = (2 * parameters * batch * prompt) / rate / 1e9
  return { bench: 'prefill', ...base, ms, tokensPerS: (batch * prompt * 1e3) / ms, floorMs, share: floorMs / ms }
}

async function repeat(llm: LanguageModel, options: ModelBenchOptions, newTokens: number, first: Run): Promise<{ runs: Run[]; base: ModelRow }> {
  const runs: Run[] = []
  for (let i = 0; i < options.repeats; i++) runs.push(await runOnce(llm, options, newTokens))
  const { device } = llm
  const { peakAllocatedBytes } = device.memoryStats()
  const base: ModelRow = {
    hardware: describeDevice(device),
    ceilings: await ceilingsOf(device),
    model: options.name,
    fp8: options.fp8,
    kv: options.kv ?? llm.info.dtype,
    batch: options.batch,
    prompt: options.prompt,
    repeats: options.repeats,
    loadSeconds: llm.loadSeconds,
    weightsBytes: llm.model.memory().weightsBytes,
    peakBytes: peakAllocatedBytes,
    repeatable: runs.every((run) => run.tokens === first.tokens),
    spread: spread(runs.map((run) => run.seconds)),
    kernels: device.kernels(),
  }
  return { runs, base }
}

const measured = new WeakMap<Device, Promise<Ceilings>>()

/** Once a device: rows of one command share it. */
function ceilingsOf(device: Device): Promise<Ceilings> {
  const held = measured.get(device) ?? measureCeilings(device)
  measured.set(device, held)
  return held
}

/** Every model that this package makes is one. */
function decoderOf(llm: LanguageModel): DecoderForCausalLM {
  return llm.model as DecoderForCausalLM
}

function itemBytes(dtype: string): number {
  return { f32: 4, bf16: 2, e4m3: 1 }[dtype] ?? 2
}
