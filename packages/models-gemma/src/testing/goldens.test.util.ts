import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import { Tensor, type Device } from '@octet-llm/kernels'
import type { CausalLM, InferenceParamsRequest } from '@octet-llm/transformer'

export const fixture = (name: string): string => fileURLToPath(new URL(`../../../../fixtures/${name}`, import.meta.url))

/** Hugging Face's results for a batch, float32 on CPU from the stored weights. */
export interface Batch {
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
}

export interface BeamGolden {
  readonly kwargs: Readonly<Record<string, number | boolean>>
  readonly ids: number[][]
  readonly scores: number[] | null
}

export interface ModelGolden {
  readonly token_ids: number[][]
  readonly left_padded: Batch
  readonly greedy_64: number[][]
  readonly beam4: BeamGolden
  readonly beam4_len2_early: BeamGolden
  readonly beam3_return3: BeamGolden
  readonly 'greedy_rep1.3': BeamGolden
  readonly greedy_no_repeat_3gram: BeamGolden
  readonly eos_is_period: { readonly eos_token_id: number; readonly ids: number[][] }
  readonly beam4_eos_is_period: { readonly eos_token_id: number; readonly ids: number[][] }
}

export interface VariantGolden extends Batch {
  readonly greedy_24: number[][]
}

export const readGolden = <T>(folder: string): T => JSON.parse(readFileSync(fixture(`${folder}/golden.json`), 'utf8')) as T

/** A golden tensor. */
export async function goldenTensor(folder: string, name: string): Promise<Float32Array> {
  const file = await openSafetensors(fixture(`${folder}/golden.safetensors`))
  const values = await file.readFloat32(name)
  await file.close()
  return values
}

/** Largest difference; NaN when lengths differ or a value is NaN. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return NaN
  let max = 0
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i]! - b[i]!)
    if (Number.isNaN(d)) return NaN
    max = Math.max(max, d)
  }
  return max
}

/** The batch without its pads, one row of ids a sequence. */
export const unpadded = (batch: Batch): number[][] => batch.input_ids.map((row, b) => row.filter((_, i) => batch.attention_mask[b]![i] === 1))

export const i32 = (device: Device, data: readonly number[]): Tensor => Tensor.from(Int32Array.from(data), { shape: [data.length], dtype: 'i32', device })

/** Last logits of every row by one prefill over the cache, in chunks. */
export async function prefill(model: CausalLM, rows: readonly (readonly number[])[], chunk = Infinity, cache: Partial<InferenceParamsRequest> = {}): Promise<Float32Array> {
  const params = model.createInferenceParams({ maxBatchSize: rows.length, maxSequenceLength: Math.max(...rows.map((r) => r.length)), ...cache })
  const { vocabSize } = model.info
  const last = new Float32Array(rows.length * vocabSize)
  for (let at = 0; at < Math.max(...rows.map((r) => r.length)); at += chunk) {
    const parts = rows.map((row) => row.slice(at, at + chunk))
    params.preStep(new Map(parts.map((part, b) => [b, part.length])))
    const logits = await model.step(i32(model.device, parts.flat()), params).toFloat32Array()
    for (const [b, part] of parts.entries()) if (part.length > 0) last.set(logits.subarray(b * vocabSize, (b + 1) * vocabSize), b * vocabSize)
  }
  params.dispose()
  return last
}

/** Rows right- instead of left-padded, with another pad id. */
export function padRight(batch: Batch, pad: number): { inputIds: number[][]; attentionMask: number[][] } {
  const rows = unpadded(batch)
  const width = Math.max(...rows.map((r) => r.length))
  return {
    inputIds: rows.map((r) => [...r, ...new Array<number>(width - r.length).fill(pad)]),
    attentionMask: rows.map((r) => [...new Array<number>(r.length).fill(1), ...new Array<number>(width - r.length).fill(0)]),
  }
}
