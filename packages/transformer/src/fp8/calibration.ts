import { OctetError, type Shape } from '@octet-llm/core'
import { FP8_MAX, inverseScale, scaleFromAmax } from '@octet-llm/fp8-recipe'
import { amax, keep, Tensor, type Device } from '@octet-llm/kernels'

import type { KvLayerScales } from '@octet-llm/kv-cache'

import type { CausalLM, ForwardInput } from '../causal-lm.js'
import type { DotProductAttention } from '../dot-product-attention.js'
import type { Linear } from '../linear.js'
import type { ForwardObserver } from './context.js'
import type { InputMoments } from './input-moments.js'

/**
 * Static scales, each the inverse that de-quantizes (value = fp8 * scale), as plain float32 tensors by name:
 * `layers.0.self_attention.layernorm_qkv.input_scale` [1] of every projection, and `layers.0.self_attention.k_scale` and
 * `v_scale` [Hkv] of the KV cache.
 */
export type Calibration = ReadonlyMap<string, Float32Array>

/** A model whose forward takes a context and whose projections have names. */
export interface CalibratedModel extends CausalLM {
  linears(): readonly (readonly [name: string, linear: Linear])[]
}

export interface CalibrateOptions {
  /** Told every projection's input too. Default: none. */
  readonly moments?: InputMoments | undefined
}

/**
 * Runs batches through the model and takes, for every projection's input and for every head of keys (after RoPE) and
 * values, the largest magnitude over all batches. Pads have no part in it. The model computes as ever while it watches.
 * @param batches token ids with their masks, of any size and length
 * @throws OctetError `INVALID_ARGUMENT` without any token, or when an activation is not finite; what `forward` throws
 */
export async function calibrate(model: CalibratedModel, batches: Iterable<ForwardInput> | AsyncIterable<ForwardInput>, options: CalibrateOptions = {}): Promise<Map<string, Float32Array>> {
  const recorder = new AmaxRecorder(model, options.moments)
  try {
    let tokens = 0
    for await (const batch of batches) {
      tokens += countTokens(batch)
      model.forward({ ...batch, hiddenStates: false, fp8: { enabled: true, calibrating: true, observer: recorder } }).dispose()
      await recorder.collect()
    }
    if (tokens === 0) throw new OctetError('INVALID_ARGUMENT', { op: 'calibrate', argument: 'batches', expected: 'at least one token', received: 'none', hint: 'pass a text that is not empty' })
    return recorder.scales()
  } finally {
    recorder.dispose()
  }
}

/** A calibration as a safetensors writer takes it. */
export function calibrationEntries(calibration: Calibration): { name: string; dtype: 'f32'; shape: Shape; data: Float32Array }[] {
  return [...calibration].map(([name, data]) => ({ name, dtype: 'f32', shape: [data.length], data }))
}

/**
 * The KV scales of a calibration, layer by layer; undefined when it has none. One value stands for all heads.
 * @throws OctetError `CHECKPOINT_MISMATCH` when some are missing or of another number of heads
 */
export function kvScalesOf(calibration: Calibration | undefined, layers: number, heads: number): KvLayerScales[] | undefined {
  const names = (['k', 'v'] as const).flatMap((part) => Array.from({ length: layers }, (_, i) => kvName(i, part)))
  if (calibration === undefined || !names.some((name) => calibration.has(name))) return undefined
  const read = (name: string): Float32Array => {
    const values = calibration.get(name)
    if (values?.length === 1) return new Float32Array(heads).fill(values[0]!)
    if (values?.length === heads) return values
    throw new OctetError('CHECKPOINT_MISMATCH', { op: 'calibration', argument: name, expected: `[${heads}]`, received: values === undefined ? 'nothing' : `[${values.length}]`, hint: 'calibrate this model' })
  }
  return Array.from({ length: layers }, (_, i) => ({ k: read(kvName(i, 'k')), v: read(kvName(i, 'v')) }))
}

/**
 * Checks that a calibration knows no module but the model's, and holds usable scales.
 * @param linears names of the projections
 * @throws OctetError `CHECKPOINT_MISMATCH` listing what does not fit
 */
export function checkCalibration(calibration: Calibration, linears: readonly string[], layers: number): void {
  const inputs = new Set(linears.map((name) => `${name}.input_scale`))
  const caches = new Set((['k', 'v'] as const).flatMap((part) => Array.from({ length: layers }, (_, i) => kvName(i, part))))
  const faults = [...calibration].flatMap(([name, values]) => {
    if (!inputs.has(name) && !caches.has(name)) return [`the model has no ${name.slice(0, 80)}`]
    if (inputs.has(name) && values.length !== 1) return [`${name} expected [1], received [${values.length}]`]
    const wrong = values.find((value) => !(value > 0 && Number.isFinite(value) && Number.isFinite(Math.fround(1 / value))))
    return wrong === undefined ? [] : [`${name} expected finite scales above 0, received ${wrong}`]
  })
  if (faults.length === 0) return
  const more = faults.length > 4 ? ', …' : ''
  throw new OctetError('CHECKPOINT_MISMATCH', { op: 'calibration', argument: 'calibration', expected: 'the scales of this model', received: `${faults.length} faults: ${faults.slice(0, 4).join(', ')}${more}`, hint: 'calibrate this model' })
}

/** Name of a layer's KV scales. @param layer 0-based */
export function kvName(layer: number, part: 'k' | 'v'): string {
  return `layers.${layer}.self_attention.${part}_scale`
}

/** Tokens of a batch, pads left out. */
export function countTokens({ inputIds, attentionMask }: ForwardInput): number {
  if (attentionMask !== undefined) return attentionMask.reduce((sum, row) => sum + Array.from(row).filter((m) => m !== 0).length, 0)
  if (inputIds instanceof Tensor) return inputIds.shape.reduce((n, d) => n * d, 1)
  return inputIds.reduce((sum, row) => sum + row.length, 0)
}

/** The largest magnitudes so far; those of the batch in flight are on the device until `collect`. */
class AmaxRecorder implements ForwardObserver {
  readonly #names: ReadonlyMap<Linear, string>
  readonly #device: Device
  readonly #heads: number
  readonly #moments: InputMoments | undefined
  readonly #largest = new Map<string, Float32Array>()
  readonly #flying: { readonly name: string; readonly values: Tensor }[] = []

  constructor(model: CalibratedModel, moments: InputMoments | undefined) {
    this.#names = new Map(model.linears().map(([name, linear]) => [linear, name]))
    this.#device = model.device
    this.#heads = model.info.numKvHeads
    this.#moments = moments
  }

  input(linear: Linear, x: Tensor): void {
    const name = this.#names.get(linear)
    if (name === undefined) return
    amax({ x, out: this.#slot(`${name}.input_scale`, 1) })
    this.#moments?.add(name, x)
  }

  keysAndValues(core: DotProductAttention, k: Tensor, v: Tensor): void {
    for (const [part, x] of [['k', k], ['v', v]] as const) {
      const values = this.#slot(kvName(core.layerNumber - 1, part), this.#heads)
      for (let head = 0; head < this.#heads; head++) {
        const [columns, out] = [x.columns(head * core.headDim, (head + 1) * core.headDim), values.rows(head, head + 1)]
        amax({ x: columns, out })
        columns.dispose()
        out.dispose()
      }
    }
  }

  /** Where a magnitude will be; a layer's own scope ends before it is read. */
  #slot(name: string, count: number): Tensor {
    const values = keep(Tensor.empty([count], { dtype: 'f32', device: this.#device }))
    this.#flying.push({ name, values })
    return values
  }

  async collect(): Promise<void> {
    for (const { name, values } of this.#flying) {
      const batch = await values.toFloat32Array()
      const so = this.#largest.get(name) ?? new Float32Array(batch.length)
      if (!batch.every((value) => Number.isFinite(value))) throw new OctetError('OP_FAILED', { op: 'calibrate', message: `[calibrate] ${name}: an activation is not finite; check the model's weights, or its dtype` })
      this.#largest.set(name, so.map((value, i) => Math.max(value, batch[i]!)))
    }
    this.#clear()
  }

  scales(): Map<string, Float32Array> {
    return new Map([...this.#largest].map(([name, values]) => [name, values.map((value) => inverseScale(scaleFromAmax(value, FP8_MAX.e4m3)))]))
  }

  dispose(): void {
    this.#clear()
  }

  #clear(): void {
    for (const { values } of this.#flying.splice(0)) values.dispose()
  }
}
