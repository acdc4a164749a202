import { OctetError, type TensorSource, type WeightSink, type WeightSlot } from '@octet-llm/core'
import type { Tensor } from '@octet-llm/kernels'

import type { WeightMapEntry } from './decoder-options.js'
import type { NamedLinear } from './fp8/decoder-fp8.js'
import type { Linear } from './linear.js'
import { findWeight } from './module.js'
import type { Norm } from './norm.js'
import type { DecoderLayer } from './transformer-layer.js'
import type { Vocabulary } from './vocabulary.js'
import type { Weight } from './weight.js'
import { weightSink, type SinkOptions } from './weight-sink.js'

export interface DecoderWeightsOptions {
  readonly layers: readonly Pick<DecoderLayer, 'weights' | 'linears'>[]
  readonly vocabulary: Pick<Vocabulary, 'embedding' | 'head'>
  /** The one before the head. */
  readonly norm: Pick<Norm, 'weight'>
  readonly weightMap: readonly WeightMapEntry[]
  /** Of activations. */
  readonly dtype: 'f32' | 'bf16'
}

/** A decoder's parameters under the names that its checkpoints use. Owns none of them. */
export class DecoderWeights {
  /** Parameters by path, in the order of a forward. */
  readonly byPath: ReadonlyMap<string, Weight>
  readonly map: readonly WeightMapEntry[]
  /** Every projection, the head too. */
  readonly linears: readonly NamedLinear[]
  readonly #addresses: ReadonlyMap<string, string>
  readonly #dtype: 'f32' | 'bf16'

  constructor({ layers, vocabulary: { embedding, head }, norm, weightMap, dtype }: DecoderWeightsOptions) {
    this.byPath = new Map([
      ['embed_tokens.weight', embedding],
      ...layers.flatMap((layer, i) => layer.weights().map(([path, weight]) => [`layers.${i}.${path}`, weight] as const)),
      ['norm.weight', norm.weight],
      ...(head === undefined ? [] : [['lm_head.weight', head.weight] as const]),
    ])
    this.map = weightMap
    this.#dtype = dtype
    this.#addresses = new Map(weightMap.map(({ name, address }) => [name, address]))
    const names = new Map(weightMap.map(({ name, address }) => [address, name]))
    const paths = new Map([...this.byPath].map(([path, weight]) => [weight, path]))
    const slotsOf = (path: string, { segments }: Weight) => (segments.length === 0 ? [path] : segments.map((s) => `${path}.${s.name}`)).map((address) => names.get(address) ?? address)
    const linears = layers.flatMap((layer, i) => layer.linears().map(([path, linear]) => [`layers.${i}.${path}`, linear] as const))
    this.linears = [...linears, ...(head === undefined ? [] : [['lm_head', head] as const])].map(([name, linear]) => ({ name, linear, slots: slotsOf(paths.get(linear.weight)!, linear.weight) }))
  }

  /** The projections that a calibration has scales for: all but the head. */
  calibrated(): readonly NamedLinear[] {
    return this.linears.filter(({ name }) => name !== 'lm_head')
  }

  /** One slot a checkpoint tensor, in the order of the weight map. */
  slots(): WeightSlot[] {
    return this.map.map(({ name, address, optional }) => {
      const { weight, segment } = findWeight(this.byPath, address)
      const shape = [...weight.shapeOf(segment)]
      return { name, shape, quantizable: shape.length === 2 && (address.startsWith('layers.') || address === 'lm_head.weight'), ...(optional === true ? { optional } : {}) }
    })
  }

  /** Tensors that an adapter puts in the checkpoint's place keep their values: float32 activations are no reason to round them. */
  makeRoomFor(replacements: ReadonlyMap<string, TensorSource>): void {
    if (this.#dtype !== 'f32') return
    for (const [name, { dtype }] of replacements) {
      const { weight } = this.#find(name)
      if (weight.rule === undefined && weight.dtype !== dtype) weight.widen()
    }
  }

  /**
   * Uploads what a loader accepts into the slots' parameters.
   * @param onInputScale told the static activation scale that a checkpoint holds for a projection
   * @throws OctetError `CHECKPOINT_MISMATCH` for moments of another model
   */
  sink(options: SinkOptions, onInputScale: (linear: Linear, scale: number) => void): WeightSink {
    const linears = new Map(this.linears.map(({ linear }) => [linear.weight, linear]))
    const { moments } = options
    // The head is not calibrated.
    const momentsOf = new Map(moments === undefined ? [] : this.calibrated().map(({ name, linear }) => [linear, moments.of(name, linear.inFeatures)]))
    return weightSink((slot) => {
      const { weight, segment } = this.#find(slot.name)
      const linear = linears.get(weight)
      if (linear === undefined) return { weight, segment }
      return { weight, segment, moments: momentsOf.get(linear), onInputScale: (scale) => onInputScale(linear, scale), onLowRank: (update) => linear.addLowRank(update) }
    }, { dtype: this.#dtype, ...options })
  }

  /**
   * The parameter that a checkpoint calls `name`, sharing storage.
   * @throws OctetError `INVALID_ARGUMENT` for a name that this model has no use for
   */
  parameter(name: string): Tensor {
    const address = this.#addresses.get(name)
    if (address === undefined) throw new OctetError('INVALID_ARGUMENT', { op: 'parameter', argument: 'name', expected: 'a tensor name of a checkpoint of this model', received: name })
    const { weight, segment } = findWeight(this.byPath, address)
    return weight.view(segment)
  }

  /** Bytes of the parameters, a shared one once, and of adapters beside them. */
  get byteLength(): number {
    const weights = [...new Set(this.byPath.values())].map((weight) => weight.byteLength)
    return [...weights, ...this.linears.map(({ linear }) => linear.lowRankBytes)].reduce((total, n) => total + n, 0)
  }

  /** By checkpoint name, or by address. */
  #find(name: string): { weight: Weight; segment?: string } {
    return findWeight(this.byPath, this.#addresses.get(name) ?? name)
  }
}
