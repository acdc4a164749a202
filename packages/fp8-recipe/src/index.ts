export * from './delayed.js'
export type { GemmParams, QuantParams } from './fields.js'
export * from './format.js'
export * from './quant-spec.js'
export {
  DelayedScaling,
  Float8BlockScaling,
  Float8CurrentScaling,
  MXFP8BlockScaling,
  NVFP4BlockScaling,
  type AmaxFunction,
  type DelayedScalingOptions,
  type Float8BlockScalingOptions,
  type Float8CurrentScalingOptions,
  type MXFP8BlockScalingOptions,
  type Recipe,
  type ScalingFactorFunction,
} from './recipes.js'
export * from './scaling.js'
export * from './serialize.js'
export * from './support.js'
