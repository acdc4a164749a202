/** The models of `octet bench cpu`: one checkpoint with random bf16 weights, loaded as it is and in FP8. */
import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSafetensors } from '@octet-llm/hf-loader/safetensors'
import type { Device } from '@octet-llm/kernels'
import type { DecoderForCausalLM } from '@octet-llm/transformer'
import type { LanguageModel } from '../language-model.js'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import { runOnce, type RunOptions } from './cpu-sides.js'
import { anonymousBytes, median } from './measure.js'
import { describeWeights, headDType } from './quality-run.js'
import { bf16Ones, randomBf16Block, repeatBytes } from './random-bytes.js'
import { configOf, tensorsOf, type BenchShape } from './shapes.js'

export interface ModelKind {
  readonly name: string
  readonly fp8: NonNullable<LoadModelOptions['fp8']>
}

export const BF16: ModelKind = { name: 'bf16', fp8: false }
export const FP8_KINDS: readonly ModelKind[] = [
  { name: 'fp8', fp8: true },
  { name: 'fp8, head too', fp8: { fp8LmHead: true } },
]

export interface LoadReport {
  /** The median of the repeats, from the page cache. */
  readonly seconds: number
  /** 10^9 bytes of the checkpoint a second. */
  readonly GBPerS: number
  /** Bytes of the checkpoint. */
  readonly bytes: number
}

/** Most anonymous memory of this process while it loaded and ran the model alone; `allowed` is weights + cache + 300 MB. */
export interface MemoryReport {
  readonly bytes: number
  readonly allowed: number
}

const MEMORY_SLACK = 300e6

/** A folder that loads: config and weights, norms of ones. Returns the bytes of the weights' file. */
export async function writeCheckpoint(folder: string, shape: BenchShape, signal: AbortSignal): Promise<number> {
  const block = randomBf16Block(2)
  const ones = bf16Ones()
  const path = join(folder, 'model.safetensors')
  await writeFile(join(folder, 'config.json'), JSON.stringify(configOf(shape)))
  await writeSafetensors(path, tensorsOf(shape).map(({ name, shape: dims }) => ({ name, shape: dims, dtype: 'bf16' as const, data: () => repeatBytes(dims.length === 1 ? ones : block, 2 * dims.reduce((a, b) => a * b, 1)) })), { metadata: { format: 'pt' }, signal })
  return (await stat(path)).size
}

export function loadKind(folder: string, { fp8 }: ModelKind, device: Device, signal: AbortSignal, onProgress?: () => void): Promise<LanguageModel> {
  return loadModel(folder, { device, dtype: 'bf16', fp8, signal, ...(onProgress === undefined ? {} : { onProgress }) })
}

/** What the model stores, and what one decode step reads of it: a row of an embedding that is not the head counts nothing. */
export function weightBytes({ model }: LanguageModel): { readonly held: number; readonly read: number } {
  const held = model.memory().weightsBytes
  const weights = (model as DecoderForCausalLM).weights
  return { held, read: weights.has('lm_head.weight') ? held - weights.get('embed_tokens.weight')!.byteLength : held }
}

/** What one kind took to load, and what it is made of. */
export interface Loaded {
  readonly kind: ModelKind
  /** Null without repeats. */
  readonly load: LoadReport | null
  readonly memory: MemoryReport | null
  readonly weights: Readonly<Record<string, number>>
  readonly head: string
}

/**
 * Loads a kind alone: once watched, with a run of its longest prompt, then `repeats` times from the page cache. Memory is
 * looked at after each tensor and after the run.
 */
export async function timeLoading(folder: string, kind: ModelKind, device: Device, options: RunOptions & { readonly bytes: number; readonly repeats: number }): Promise<Loaded> {
  const { bytes, repeats, prompts, newTokens, signal } = options
  const seconds: number[] = []
  let most = 0
  let seen: { allowed: number; weights: Record<string, number>; head: string } | undefined
  const look = (): void => void (most = Math.max(most, anonymousBytes() ?? NaN))
  for (let round = 0; round <= repeats; round++) {
    device.emptyCache()
    // Only the first round is watched: looking costs time. It may also still read from the disk, so it is not timed.
    const llm = await loadKind(folder, kind, device, signal, round === 0 ? look : undefined)
    try {
      if (round > 0) seconds.push(llm.loadSeconds)
      else {
        await runOnce(llm, Math.max(...prompts), newTokens, signal)
        look()
        const model = llm.model as DecoderForCausalLM
        seen = { allowed: weightBytes(llm).held + cacheBytes(llm, options) + MEMORY_SLACK, weights: describeWeights(model), head: headDType(model) }
      }
    } finally {
      await llm.dispose()
    }
  }
  device.emptyCache()
  const { allowed, weights, head } = seen!
  const typical = median(seconds)
  return {
    kind,
    load: seconds.length === 0 ? null : { seconds: typical, GBPerS: bytes / typical / 1e9, bytes },
    memory: Number.isNaN(most) ? null : { bytes: most, allowed },
    weights,
    head,
  }
}

/** Keys and values in bf16 of the longest run. */
function cacheBytes({ info }: LanguageModel, { prompts, newTokens }: RunOptions): number {
  return 2 * 2 * info.numLayers * info.numKvHeads * info.headDim * (Math.max(...prompts) + newTokens)
}
