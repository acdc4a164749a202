import type { Fp8DType, ScaleGranularity } from '@octet-llm/core'
import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, F32, FP8, scaleShape, type OpOptions, type QuantizedTensor } from './call.js'

export interface QuantizeOptions extends OpOptions {
  /** [..., K] with N rows, f32 or bf16. */
  readonly x: Tensor
  readonly granularity: ScaleGranularity
  /** FP8 format of new data. Default e4m3. */
  readonly dtype?: Fp8DType
  /** A given scale (data = x * scale) instead of one from x's own amax: the static form. Shape as scaleInv; f32. */
  readonly scale?: Tensor
  /** Scales are rounded to powers of two, as block scaling wants them. Default false. */
  readonly powerOf2?: boolean
  /** Lower bound of the amax that a scale is made from. Default 0. */
  readonly epsilon?: number
  /** Rows and K as x; e4m3 or e5m2. */
  readonly data?: Tensor
  /** Shape by granularity, f32. */
  readonly scaleInv?: Tensor
}

/**
 * data = saturate(round(x * scale)), scaleInv = 1 / scale, where scale = (largest code value) / amax of the scale's
 * elements; 1 where amax is 0 or not finite.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function quantize(options: QuantizeOptions): QuantizedTensor {
  const call = new Call('quantize', options)
  const x = call.input('x', options.x, '*N K', ACTIVATIONS)
  const [n, k] = [call.length('N'), call.length('K')]
  const epsilon = call.real('epsilon', options.epsilon ?? 0, 0)
  const { granularity } = options
  const code = call.granularity('granularity', granularity)
  const scale = options.scale === undefined ? null : call.scales('scale', options.scale, granularity, n, k)
  if (options.scaleInv !== undefined) call.scales('scaleInv', options.scaleInv, granularity, n, k)
  const data = call.output('data', options.data, '*N K', x.shape, call.choices('dtype', options.data?.dtype ?? options.dtype ?? 'e4m3', FP8))
  const scaleInv = call.output('scaleInv', options.scaleInv, null, scaleShape(granularity, n, k), F32)
  call.run([x, data, scaleInv, scale], [code, options.powerOf2 ?? false, epsilon])
  return { data, scaleInv, granularity }
}
