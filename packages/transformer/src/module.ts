import { OctetError } from '@octet-llm/core'
import type { Device } from '@octet-llm/kernels'

import type { Fp8Inference } from './fp8/inference.js'
import type { Weight } from './weight.js'

/** What every module with parameters takes. */
export interface ModuleOptions {
  readonly device: Device
  /** Of activations. Default 'f32'. */
  readonly dtype?: 'f32' | 'bf16'
  /**
   * Storage of the projections' weights. Default `dtype`; float32 activations may keep bf16 or f16 weights, whose
   * widening is exact.
   */
  readonly weightDtype?: 'f32' | 'bf16' | 'f16'
  /** Projections exist in FP8 only, and quantize their inputs. Default: not. */
  readonly fp8?: Fp8Inference | undefined
  /** Random weights are a function of (seed, layerNumber, parameter, element). Default 0. */
  readonly seed?: number
  /** Standard deviation of random weights. Default 0.02. */
  readonly initStd?: number
  /** false leaves the parameters undefined, for a checkpoint to fill. Default true. */
  readonly initialize?: boolean
}

/** A parameter as TransformerEngine's state names it. */
export interface StateEntry {
  readonly name: string
  readonly weight: Weight
  /** The part of the weight that the entry holds; all of it by default. */
  readonly segment?: string
  /** Row i of the entry is row `rowOrder[i]` of the weight; absent when they agree. */
  readonly rowOrder?: Int32Array
}

/** Anything with parameters. */
export interface Module {
  /** Parameters by path; a segment of a fused one is addressed as `path.segment` (see {@link findWeight}). */
  weights(): [path: string, weight: Weight][]
  /** Parameters as TransformerEngine's state dict names and orders them. */
  stateEntries(): StateEntry[]
  dispose(): void
}

/** Parameters and state entries of a part, under its name. */
export function prefixed<T extends Module>(name: string, part: T | undefined): { weights: [string, Weight][]; state: StateEntry[] } {
  return {
    weights: part?.weights().map(([path, weight]) => [`${name}.${path}`, weight]) ?? [],
    state: part?.stateEntries().map((entry) => ({ ...entry, name: `${name}.${entry.name}` })) ?? [],
  }
}

/**
 * The weight, and the segment of it, that an address such as `self_attention.layernorm_qkv.weight.query` names.
 * @throws OctetError `INTERNAL` for an address that no module has
 */
export function findWeight(weights: ReadonlyMap<string, Weight>, address: string): { weight: Weight; segment?: string } {
  const whole = weights.get(address)
  if (whole !== undefined) return { weight: whole }
  const dot = address.lastIndexOf('.')
  const weight = weights.get(address.slice(0, dot))
  const segment = address.slice(dot + 1)
  if (weight === undefined || !weight.segments.some((s) => s.name === segment)) {
    throw new OctetError('INTERNAL', { op: 'findWeight', argument: 'address', expected: 'a parameter of the model', received: address })
  }
  return { weight, segment }
}

/** A seed's streams: 64 a layer, one a logical weight. Layer 0 is the embedding and the head. */
export function weightStream(layerNumber: number, index: number): number {
  return layerNumber * 64 + index
}

/** @throws OctetError `INVALID_ARGUMENT` */
export function checkSizes(op: string, sizes: Readonly<Record<string, number>>): void {
  for (const [argument, value] of Object.entries(sizes)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new OctetError('INVALID_ARGUMENT', { op, argument, expected: 'a whole number of at least 1', received: String(value) })
    }
  }
}

/** Storage dtype of a projection's weights. */
export function weightDtypeOf(options: ModuleOptions): 'f32' | 'bf16' | 'f16' {
  return options.weightDtype ?? options.dtype ?? 'f32'
}
