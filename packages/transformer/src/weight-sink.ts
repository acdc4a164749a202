import { OctetError, type QuantizedSource, type TensorSource, type WeightSink, type WeightSlot } from '@octet-llm/core'
import { cast, copy, dequantize, linear, scale, scope, Tensor, upload, type Device } from '@octet-llm/kernels'

import type { InputMoments } from './fp8/input-moments.js'
import { LowRankUpdate, type LoraFactors } from './low-rank.js'
import type { Weight } from './weight.js'

/** The parameter of a slot. */
export interface SinkTarget {
  readonly weight: Weight
  readonly segment?: string | undefined
  /** Told the static activation scale (value = fp8 * scale) that lies beside the slot's FP8 values. */
  onInputScale?(scale: number): void
  /** f32 [K, S]: the second moments of the weight's inputs, where it is to be rounded by them. */
  readonly moments?: Tensor | undefined
  /** Keeps an adapter's update beside the weight; missing where a weight cannot have one. */
  onLowRank?(update: LowRankUpdate): void
}

/** A LoRA adapter as hf-loader reads it. */
export interface AdapterSource {
  /** By slot name: y += scaling * B (A x), A [r, in], B [out, r]. */
  readonly modules: ReadonlyMap<string, LoraFactors>
  /** By slot name: what stands in the place of the checkpoint's tensor. */
  readonly replacements: ReadonlyMap<string, TensorSource>
}

export interface SinkOptions {
  readonly signal?: AbortSignal | undefined
  /** Default: none. */
  readonly adapter?: AdapterSource | undefined
  /**
   * `merge` (default): into the weights as they come in, in float32, before their one rounding. `apply`: the factors stay
   * beside weights that are as the checkpoint has them, and add their product in every forward.
   */
  readonly adapterMode?: AdapterMode | undefined
  /** Which errors of a weight cancel; see {@link PretrainedOptions}. Default: none is rounded by them. */
  readonly moments?: InputMoments | undefined
  /** Of applied factors: the activations'. Default 'f32'. */
  readonly dtype?: 'f32' | 'bf16'
}

export type AdapterMode = 'merge' | 'apply'

/**
 * A sink that reads each checkpoint tensor straight into its parameter, converting the dtype on the way. FP8 tensors go
 * into an FP8 weight as they are, and are de-quantized for any other; other tensors are quantized for an FP8 weight. What
 * has to be staged is staged one tensor at a time.
 */
export function weightSink(target: (slot: WeightSlot) => SinkTarget, options: SinkOptions = {}): WeightSink {
  let turn: Promise<void> = Promise.resolve()
  const inTurn = (run: () => Promise<void>): Promise<void> => {
    const mine = turn.then(run)
    turn = mine.catch(() => undefined)
    return mine
  }
  return {
    async accept(slot, source) {
      const to = target(slot)
      const { weight, segment } = to
      const from = options.adapter?.replacements.get(slot.name) ?? source
      const adapter = options.adapter?.modules.get(slot.name)
      const factors = options.adapterMode === 'apply' ? undefined : adapter
      if ('data' in from && from.inputScale !== undefined && weight.rule !== undefined) to.onInputScale?.(await readScalar(from.inputScale, weight.device, options.signal))
      if (factors !== undefined || isStaged(weight, from)) await inTurn(() => stage(to, from, factors, options.signal))
      else if ('data' in from) await uploadStored(from, weight, segment, options.signal)
      else await upload(from, weight.view(segment), { signal: options.signal })
      if (adapter !== undefined && factors === undefined) await attach(slot, to, adapter, options)
    },
  }
}

/** @throws OctetError `NOT_SUPPORTED` for a weight that is no projection's */
async function attach(slot: WeightSlot, { weight, segment, onLowRank }: SinkTarget, factors: LoraFactors, { dtype = 'f32', signal }: SinkOptions): Promise<void> {
  if (onLowRank === undefined) throw new OctetError('NOT_SUPPORTED', { op: 'adapter', argument: slot.name, expected: 'factors of projections', received: 'factors of another weight', hint: 'merge the adapter' })
  const rows = segment === undefined ? ([0, weight.shape[0]!] as const) : weight.range(segment)
  onLowRank(await LowRankUpdate.read(rows, factors, weight.device, dtype, signal))
}

/** Whether a tensor takes another form on its way than `upload` gives it. */
function isStaged(weight: Weight, source: TensorSource | QuantizedSource): boolean {
  return 'data' in source ? weight.rule === undefined : weight.rule !== undefined
}

/** Codes and scales as the checkpoint has them. */
async function uploadStored(source: QuantizedSource, weight: Weight, segment: string | undefined, signal: AbortSignal | undefined): Promise<void> {
  const target = weight.storage.target(segment, source.granularity)
  await upload(source.data, target.data, { signal })
  await upload(source.scaleInv, target.scaleInv, { signal })
  await checkScales(source, target.scaleInv)
  weight.storage.seal(segment, target)
}

/** Reads the values, merges the adapter's factors, then rounds or quantizes them into the parameter. */
async function stage(
  { weight, segment, moments }: SinkTarget,
  source: TensorSource | QuantizedSource,
  factors: LoraFactors | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { device } = weight
  const stored = 'data' in source
  const dtype = factors === undefined && !stored && source.dtype === 'bf16' ? 'bf16' : 'f32'
  const values = Tensor.empty(weight.shapeOf(segment), { dtype, device })
  try {
    if (stored) await readDequantized(source, values, signal)
    else await upload(source, values, { signal })
    if (factors !== undefined) await merge(values, factors, signal)
    if (weight.rule !== undefined) {
      weight.storage.store(segment, values, stored ? { ...weight.rule, granularity: source.granularity } : weight.rule)
      if (moments !== undefined) await compensateStored(weight, segment, values, moments, signal)
    } else if (weight.dtype === 'f32') copy({ x: values, out: weight.view(segment) })
    else cast({ x: values, out: weight.view(segment) })
  } finally {
    values.dispose()
  }
}

/** Waits for the end: it takes a while, and the values of tensors to come would pile up behind it. */
async function compensateStored({ device, storage }: Weight, segment: string | undefined, values: Tensor, moments: Tensor, signal: AbortSignal | undefined): Promise<void> {
  storage.compensate(segment, values, moments)
  await device.synchronize()
  signal?.throwIfAborted()
}

/** A scale that is no number makes every logit NaN, and nothing says why. */
async function checkScales({ scaleInv: { name } }: QuantizedSource, scales: Tensor): Promise<void> {
  const values = await scales.toFloat32Array()
  const bad = values.findIndex((v) => !Number.isFinite(v))
  if (bad < 0) return
  throw new OctetError('MISSING_SCALE', { op: 'load', argument: name, expected: 'finite scales', received: `${values[bad]} at ${bad}`, hint: 'quantize the model again' })
}

async function readDequantized(source: QuantizedSource, out: Tensor, signal: AbortSignal | undefined): Promise<void> {
  const { data, scaleInv } = scope(() => ({
    data: Tensor.empty(source.data.shape, { dtype: source.data.dtype as 'e4m3', device: out.device }),
    scaleInv: Tensor.empty(source.scaleInv.shape, { dtype: 'f32', device: out.device }),
  }))
  try {
    await upload(source.data, data, { signal })
    await upload(source.scaleInv, scaleInv, { signal })
    await checkScales(source, scaleInv)
    dequantize({ x: { data, scaleInv, granularity: source.granularity }, out })
  } finally {
    data.dispose()
    scaleInv.dispose()
  }
}

/** values += scaling * B A in float32. A is read transposed: the product then runs over the rank. */
async function merge(values: Tensor, { a, b, scaling }: LoraFactors, signal: AbortSignal | undefined): Promise<void> {
  const { device } = values
  const [rank, columns] = a.shape as [number, number]
  const [down, right] = scope(() => [Tensor.empty([columns, rank], { dtype: 'f32', device }), Tensor.empty(b.shape, { dtype: 'f32', device })] as const)
  try {
    const [outer, inner] = a.strides ?? [columns, 1]
    await upload({ ...a, shape: [columns, rank], strides: [inner!, outer!] }, down, { signal })
    await upload(b, right, { signal })
    scale({ x: right, factor: scaling, out: right })
    linear({ x: right, weight: down, residual: values, out: values })
  } finally {
    down.dispose()
    right.dispose()
  }
}

async function readScalar(source: TensorSource, device: Device, signal: AbortSignal | undefined): Promise<number> {
  const value = Tensor.empty([1], { dtype: 'f32', device })
  try {
    await upload(source, value, { signal })
    return (await value.toFloat32Array())[0]!
  } finally {
    value.dispose()
  }
}
