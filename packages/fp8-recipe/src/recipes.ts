/**
 * The recipes of TransformerEngine, with its fields and defaults in camelCase
 * (`transformer_engine/common/recipe/__init__.py`, 2.20). Recipes are immutable values.
 */
import { OctetError } from '@octet-llm/core'
import { checkNames, flag, format, gemmParams, quantParams, reject, whole, type GemmParams, type QuantParams } from './fields.js'
import { Format } from './format.js'

/** Longest history; 2^20 steps of one float32 each is 4 MB a tensor. */
const MAX_HISTORY = 1_048_576
/** 2^±60 leaves every quotient of a float32 amax inside float32's exponents by clamping alone. */
const MAX_MARGIN = 60

/** Picks the amax from a history [L] (row 0 is the current step, then oldest to newest). */
export type AmaxFunction = (amaxHistory: Float32Array) => number
/** Computes a scale from an amax. */
export type ScalingFactorFunction = (amax: number, oldScale: number, fp8Max: number, recipe: DelayedScaling) => number

export interface DelayedScalingOptions {
  /** Halves the scale this many times, as room for a growing amax. Default 0. */
  readonly margin?: number
  /** Default HYBRID. */
  readonly fp8Format?: Format
  /** Steps remembered. Default 1024. */
  readonly amaxHistoryLen?: number
  /** The largest of the history, the newest entry, or a function. Default `max`. */
  readonly amaxComputeAlgo?: 'max' | 'most_recent' | AmaxFunction
  /** null: `fp8Max / 2^margin / amax`. Default null. */
  readonly scalingFactorComputeAlgo?: ScalingFactorFunction | null
  /** Take the maximum over all ranks. Default true. */
  readonly reduceAmax?: boolean
  /** FP8 inside attention. Default false. */
  readonly fp8Dpa?: boolean
  /** FP8 across the whole attention block. Default false. */
  readonly fp8Mha?: boolean
}

/** One scale a tensor, made from the amaxes of earlier steps: nothing has to be read twice. */
export class DelayedScaling {
  readonly kind = 'delayed'
  readonly name = 'DelayedScaling'
  readonly margin: number
  readonly fp8Format: Format
  readonly amaxHistoryLen: number
  readonly amaxComputeAlgo: 'max' | 'most_recent' | AmaxFunction
  readonly scalingFactorComputeAlgo: ScalingFactorFunction | null
  readonly reduceAmax: boolean
  readonly fp8Dpa: boolean
  readonly fp8Mha: boolean

  /** @throws OctetError `INVALID_ARGUMENT` for an unknown field or a value out of range. */
  constructor(options: DelayedScalingOptions = {}) {
    const op = this.name
    checkNames(op, options, DELAYED_FIELDS)
    this.margin = whole(op, 'margin', options.margin, 0, -MAX_MARGIN, MAX_MARGIN)
    this.fp8Format = format(op, options.fp8Format, Format.HYBRID)
    this.amaxHistoryLen = whole(op, 'amaxHistoryLen', options.amaxHistoryLen, 1024, 1, MAX_HISTORY)
    this.amaxComputeAlgo = options.amaxComputeAlgo ?? 'max'
    if (typeof this.amaxComputeAlgo !== 'function' && this.amaxComputeAlgo !== 'max' && this.amaxComputeAlgo !== 'most_recent') {
      throw reject(op, 'amaxComputeAlgo', "'max', 'most_recent' or a function", this.amaxComputeAlgo)
    }
    this.scalingFactorComputeAlgo = options.scalingFactorComputeAlgo ?? null
    if (this.scalingFactorComputeAlgo !== null && typeof this.scalingFactorComputeAlgo !== 'function') {
      throw reject(op, 'scalingFactorComputeAlgo', 'a function or null', this.scalingFactorComputeAlgo)
    }
    this.reduceAmax = flag(op, 'reduceAmax', options.reduceAmax, true)
    this.fp8Dpa = flag(op, 'fp8Dpa', options.fp8Dpa, false)
    this.fp8Mha = flag(op, 'fp8Mha', options.fp8Mha, false)
    Object.freeze(this)
  }
}

export const DELAYED_FIELDS: readonly string[] = [
  'margin', 'fp8Format', 'amaxHistoryLen', 'amaxComputeAlgo', 'scalingFactorComputeAlgo', 'reduceAmax', 'fp8Dpa', 'fp8Mha',
]

interface OperandOptions {
  /** Input of the forward pass. */
  readonly fp8QuantFwdInp?: Partial<QuantParams>
  readonly fp8QuantFwdWeight?: Partial<QuantParams>
  /** Gradient of the output. */
  readonly fp8QuantBwdGrad?: Partial<QuantParams>
  readonly fp8GemmFprop?: Partial<GemmParams>
  readonly fp8GemmDgrad?: Partial<GemmParams>
  readonly fp8GemmWgrad?: Partial<GemmParams>
}

const OPERAND_FIELDS: readonly string[] = [
  'fp8QuantFwdInp', 'fp8QuantFwdWeight', 'fp8QuantBwdGrad', 'fp8GemmFprop', 'fp8GemmDgrad', 'fp8GemmWgrad',
]

export interface Float8CurrentScalingOptions extends OperandOptions {
  /** Default of `power2Scale` in the three operands. Default false. */
  readonly usePower2Scales?: boolean
  /** Default HYBRID. */
  readonly fp8Format?: Format
  readonly fp8Dpa?: boolean
  readonly fp8Mha?: boolean
}

/** One scale a tensor, from the tensor's own amax. */
export class Float8CurrentScaling {
  readonly kind = 'current'
  readonly name = 'Float8CurrentScaling'
  readonly usePower2Scales: boolean
  readonly fp8Format: Format
  readonly fp8QuantFwdInp: QuantParams
  readonly fp8QuantFwdWeight: QuantParams
  readonly fp8QuantBwdGrad: QuantParams
  /** Split accumulation is off in the forward product and on in both backward ones. */
  readonly fp8GemmFprop: GemmParams
  readonly fp8GemmDgrad: GemmParams
  readonly fp8GemmWgrad: GemmParams
  readonly fp8Dpa: boolean
  readonly fp8Mha: boolean

  /** @throws OctetError `INVALID_ARGUMENT` for an unknown field or a value out of range. */
  constructor(options: Float8CurrentScalingOptions = {}) {
    const op = this.name
    checkNames(op, options, CURRENT_FIELDS)
    this.usePower2Scales = flag(op, 'usePower2Scales', options.usePower2Scales, false)
    this.fp8Format = format(op, options.fp8Format, Format.HYBRID)
    const quant: QuantParams = { power2Scale: this.usePower2Scales, amaxEpsilon: 0 }
    this.fp8QuantFwdInp = quantParams(op, 'fp8QuantFwdInp', options.fp8QuantFwdInp, quant)
    this.fp8QuantFwdWeight = quantParams(op, 'fp8QuantFwdWeight', options.fp8QuantFwdWeight, quant)
    this.fp8QuantBwdGrad = quantParams(op, 'fp8QuantBwdGrad', options.fp8QuantBwdGrad, quant)
    this.fp8GemmFprop = gemmParams(op, 'fp8GemmFprop', options.fp8GemmFprop, { useSplitAccumulator: false })
    this.fp8GemmDgrad = gemmParams(op, 'fp8GemmDgrad', options.fp8GemmDgrad, { useSplitAccumulator: true })
    this.fp8GemmWgrad = gemmParams(op, 'fp8GemmWgrad', options.fp8GemmWgrad, { useSplitAccumulator: true })
    this.fp8Dpa = flag(op, 'fp8Dpa', options.fp8Dpa, false)
    this.fp8Mha = flag(op, 'fp8Mha', options.fp8Mha, false)
    Object.freeze(this)
  }
}

export const CURRENT_FIELDS: readonly string[] = ['usePower2Scales', 'fp8Format', ...OPERAND_FIELDS, 'fp8Dpa', 'fp8Mha']

export interface Float8BlockScalingOptions extends OperandOptions {
  /** Keep float32 scales instead of powers of two. Default false. */
  readonly useF32Scales?: boolean
  /** Default E4M3. */
  readonly fp8Format?: Format
  /** 1: blocks of 1×128, 2: of 128×128. Default 1. */
  readonly xBlockScalingDim?: 1 | 2
  /** Default 2. */
  readonly wBlockScalingDim?: 1 | 2
  /** Default 1. */
  readonly gradBlockScalingDim?: 1 | 2
  /** Only false: attention in FP8 is not defined for this recipe. */
  readonly fp8Dpa?: boolean
  readonly fp8Mha?: boolean
}

/** One scale a block: 1×128 for activations and gradients, 128×128 for weights. */
export class Float8BlockScaling {
  readonly kind = 'block'
  readonly name = 'Float8BlockScaling'
  readonly useF32Scales: boolean
  readonly fp8Format: Format
  readonly fp8QuantFwdInp: QuantParams
  readonly fp8QuantFwdWeight: QuantParams
  readonly fp8QuantBwdGrad: QuantParams
  readonly xBlockScalingDim: 1 | 2
  readonly wBlockScalingDim: 1 | 2
  readonly gradBlockScalingDim: 1 | 2
  /** Split accumulation is part of the recipe: block products have different scales. */
  readonly fp8GemmFprop: GemmParams
  readonly fp8GemmDgrad: GemmParams
  readonly fp8GemmWgrad: GemmParams
  readonly fp8Dpa: boolean
  readonly fp8Mha: boolean

  /** @throws OctetError `INVALID_ARGUMENT` for an unknown field, a value out of range, or two 128×128 operands in one product. */
  constructor(options: Float8BlockScalingOptions = {}) {
    const op = this.name
    checkNames(op, options, BLOCK_FIELDS)
    this.useF32Scales = flag(op, 'useF32Scales', options.useF32Scales, false)
    this.fp8Format = format(op, options.fp8Format, Format.E4M3)
    const quant: QuantParams = { power2Scale: !this.useF32Scales, amaxEpsilon: 0 }
    this.fp8QuantFwdInp = quantParams(op, 'fp8QuantFwdInp', options.fp8QuantFwdInp, quant)
    this.fp8QuantFwdWeight = quantParams(op, 'fp8QuantFwdWeight', options.fp8QuantFwdWeight, quant)
    this.fp8QuantBwdGrad = quantParams(op, 'fp8QuantBwdGrad', options.fp8QuantBwdGrad, quant)
    this.xBlockScalingDim = whole(op, 'xBlockScalingDim', options.xBlockScalingDim, 1, 1, 2) as 1 | 2
    this.wBlockScalingDim = whole(op, 'wBlockScalingDim', options.wBlockScalingDim, 2, 1, 2) as 1 | 2
    this.gradBlockScalingDim = whole(op, 'gradBlockScalingDim', options.gradBlockScalingDim, 1, 1, 2) as 1 | 2
    const square = [this.xBlockScalingDim, this.wBlockScalingDim, this.gradBlockScalingDim].filter((dim) => dim === 2).length
    if (square > 1) {
      throw reject(op, 'xBlockScalingDim, wBlockScalingDim, gradBlockScalingDim', 'at most one 2', square, 'a product of two 128×128 operands is not supported')
    }
    const split = { useSplitAccumulator: true }
    this.fp8GemmFprop = gemmParams(op, 'fp8GemmFprop', options.fp8GemmFprop, split)
    this.fp8GemmDgrad = gemmParams(op, 'fp8GemmDgrad', options.fp8GemmDgrad, split)
    this.fp8GemmWgrad = gemmParams(op, 'fp8GemmWgrad', options.fp8GemmWgrad, split)
    for (const name of ['fp8GemmFprop', 'fp8GemmDgrad', 'fp8GemmWgrad'] as const) {
      if (!this[name].useSplitAccumulator) throw reject(op, `${name}.useSplitAccumulator`, 'true', false, 'block scaling needs split accumulation')
    }
    this.fp8Dpa = flag(op, 'fp8Dpa', options.fp8Dpa, false)
    this.fp8Mha = flag(op, 'fp8Mha', options.fp8Mha, false)
    for (const name of ['fp8Dpa', 'fp8Mha'] as const) {
      if (this[name]) throw reject(op, name, 'false', true, 'attention in FP8 needs DelayedScaling or Float8CurrentScaling')
    }
    Object.freeze(this)
  }
}

export const BLOCK_FIELDS: readonly string[] = [
  'useF32Scales', 'fp8Format', ...OPERAND_FIELDS, 'xBlockScalingDim', 'wBlockScalingDim', 'gradBlockScalingDim', 'fp8Dpa', 'fp8Mha',
]

export interface MXFP8BlockScalingOptions {
  /** Kept for TransformerEngine's sake, where it has no effect either. Default 0. */
  readonly margin?: number
  /** Default E4M3. */
  readonly fp8Format?: Format
  readonly fp8Dpa?: boolean
  readonly fp8Mha?: boolean
}

/** One power-of-two scale (E8M0, one byte) for each 32 values along the contracted axis. */
export class MXFP8BlockScaling {
  readonly kind = 'mxfp8'
  readonly name = 'MXFP8BlockScaling'
  readonly margin: number
  readonly fp8Format: Format
  readonly fp8Dpa: boolean
  readonly fp8Mha: boolean

  /** @throws OctetError `INVALID_ARGUMENT` for an unknown field or a value out of range. */
  constructor(options: MXFP8BlockScalingOptions = {}) {
    const op = this.name
    checkNames(op, options, MXFP8_FIELDS)
    this.margin = whole(op, 'margin', options.margin, 0, -MAX_MARGIN, MAX_MARGIN)
    this.fp8Format = format(op, options.fp8Format, Format.E4M3)
    this.fp8Dpa = flag(op, 'fp8Dpa', options.fp8Dpa, false)
    this.fp8Mha = flag(op, 'fp8Mha', options.fp8Mha, false)
    Object.freeze(this)
  }
}

export const MXFP8_FIELDS: readonly string[] = ['margin', 'fp8Format', 'fp8Dpa', 'fp8Mha']

/** TransformerEngine's 4-bit recipe: known by name, so that the refusal can say why. */
export class NVFP4BlockScaling {
  readonly kind = 'nvfp4'
  readonly name = 'NVFP4BlockScaling'

  /** @throws OctetError `RECIPE_NOT_SUPPORTED`, always. */
  constructor() {
    throw nvfp4Refused('NVFP4BlockScaling')
  }
}

export function nvfp4Refused(op: string): OctetError {
  return new OctetError('RECIPE_NOT_SUPPORTED', {
    op,
    argument: 'recipe',
    expected: 'an 8-bit recipe',
    received: 'NVFP4BlockScaling, which stores 4-bit e2m1 values in blocks of 16',
    hint: 'use MXFP8BlockScaling on compute capability 10.x, or DelayedScaling',
  })
}

export type Recipe = DelayedScaling | Float8CurrentScaling | Float8BlockScaling | MXFP8BlockScaling
