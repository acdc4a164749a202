import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, FP8, type OpOptions, type QuantizedTensor } from './call.js'

export interface DequantizeOptions extends OpOptions {
  readonly x: QuantizedTensor
  /** Dtype of a new output. Default f32. */
  readonly dtype?: 'f32' | 'bf16'
  /** Rows and K as x.data, f32 or bf16. */
  readonly out?: Tensor
}

/**
 * out = data * scaleInv in float32, rounded once.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function dequantize(options: DequantizeOptions): Tensor {
  const call = new Call('dequantize', options)
  const { granularity } = options.x
  const data = call.input('x.data', options.x.data, '*N K', FP8)
  const code = call.granularity('x.granularity', granularity)
  const scaleInv = call.scales('x.scaleInv', options.x.scaleInv, granularity, call.length('N'), call.length('K'))
  const out = call.output('out', options.out, '*N K', data.shape, call.choices('dtype', options.dtype ?? 'f32', ACTIVATIONS))
  call.run([data, scaleInv, out], [code])
  return out
}
