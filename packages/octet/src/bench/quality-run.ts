import type { Tensor } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import type { DecoderForCausalLM } from '@octet-llm/transformer'

/** What a model computed with, read back from its weights, its projections, its cache and its device. */
export interface QualityRun {
  readonly device: string
  /** Variant of the kernels that matter here. */
  readonly kernels: Readonly<Record<string, string>>
  /** How many weight segments (Q, K, V, O, gate, up, down) are stored in which granularity, or in which plain dtype. */
  readonly weights: Readonly<Record<string, number>>
  /** How many of them had their codes chosen how; none without FP8. */
  readonly rounding: Readonly<Record<string, number>>
  /** How many projections have their input quantized in which way: `static`, `row` (by token), `block1x128`, `none`. */
  readonly inputs: Readonly<Record<string, number>>
  /** Dtype of the output head. */
  readonly head: string
  /** Dtype of the cached keys and values, and the least and largest scale (value = code * scale) of any layer and head. */
  readonly cache: { readonly dtype: string; readonly kScale: readonly [number, number] | null; readonly vScale: readonly [number, number] | null }
}

const KERNELS = ['linear', 'quantize', 'ropeKvAppend', 'attention'] as const

export async function describeRun(model: DecoderForCausalLM, params: InferenceParams): Promise<QualityRun> {
  const kernels = model.device.kernels()
  const linears = model.linears().map(([, linear]) => linear)
  const layers = Array.from({ length: params.numLayers }, (_, i) => params.layerCache(i + 1))
  return {
    device: model.device.name,
    kernels: Object.fromEntries(KERNELS.map((op) => [op, kernels[op]])),
    weights: describeWeights(model),
    rounding: describeRounding(model),
    inputs: count(linears.map(({ weight, inputRule, inputScale }) => (weight.rule === undefined || inputRule === undefined ? 'none' : inputScale === undefined ? inputRule.granularity : 'static'))),
    head: headDType(model),
    cache: { dtype: layers[0]!.k.dtype, kScale: await range(layers.map(({ kScaleInv }) => kScaleInv)), vScale: await range(layers.map(({ vScaleInv }) => vScaleInv)) },
  }
}

/** How many weight segments are stored in which granularity, or in which plain dtype. */
export function describeWeights(model: DecoderForCausalLM): Record<string, number> {
  return count(model.linears().flatMap(([, { weight }]) => {
    const segments = weight.segments.length === 0 ? [undefined] : weight.segments.map(({ name }) => name)
    return segments.map((segment) => (weight.rule === undefined ? weight.dtype : weight.quantized(segment).granularity))
  }))
}

/** How the codes of FP8 segments were chosen. */
function describeRounding(model: DecoderForCausalLM): Record<string, number> {
  const quantized = model.linears().flatMap(([, { weight }]) => (weight.rule === undefined ? [] : [weight]))
  return count(quantized.flatMap(({ segments, storage }) => (segments.length === 0 ? [undefined] : segments.map(({ name }) => name)).map((segment) => storage.rounding(segment))))
}

/** Dtype of the output head, which may be the embedding table. */
export function headDType({ weights }: DecoderForCausalLM): string {
  return (weights.get('lm_head.weight') ?? weights.get('embed_tokens.weight')!).dtype
}

function count(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

async function range(scales: readonly (Tensor | undefined)[]): Promise<[number, number] | null> {
  const values = (await Promise.all(scales.map((scale) => scale?.toFloat32Array()))).flatMap((each) => [...(each ?? [])])
  return values.length === 0 ? null : [Math.min(...values), Math.max(...values)]
}
