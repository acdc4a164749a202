import { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, FLOATS, FP8, withLast, type OpOptions, type QuantizedTensor } from './call.js'

export interface LinearOptions extends OpOptions {
  /** [..., K] with M rows; f32 or bf16, or FP8 with its scales (granularity tensor, row or block1x128). */
  readonly x: Tensor | QuantizedTensor
  /** [N, K]; f32, bf16, f16, e4m3 or e5m2, or FP8 with its scales of any granularity. */
  readonly weight: Tensor | QuantizedTensor
  /** [N], f32 or bf16. */
  readonly bias?: Tensor
  /** [..., N] with M rows, f32 or bf16; added last. May be `out`. */
  readonly residual?: Tensor
  /** Dtype of a new output. Default: x's, or bf16 when x is FP8. */
  readonly dtype?: 'f32' | 'bf16'
  /** [..., N] with M rows, f32 or bf16. */
  readonly out?: Tensor
}

/**
 * out = x · weightᵀ (+ bias) (+ residual): accumulated in float32, scales applied in float32, rounded once. A row of the
 * result does not depend on the other rows.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function linear(options: LinearOptions): Tensor {
  const call = new Call('linear', options)
  const x = operand(options.x)
  const weight = operand(options.weight)
  call.input(x.name('x'), x.data, '*M K', x.quantized === null ? ACTIVATIONS : FP8)
  call.input(weight.name('weight'), weight.data, 'N K', weight.quantized === null ? FLOATS : FP8)
  const [m, n, k] = [call.length('M'), call.length('N'), call.length('K')]
  if (x.quantized?.granularity === 'block128x128') call.fail('x.granularity', 'tensor, row or block1x128', 'block128x128')
  const xScales = scalesOf(call, 'x', x, m, k)
  const weightScales = scalesOf(call, 'weight', weight, n, k)
  const bias = call.optional('bias', options.bias, 'N', ACTIVATIONS)
  const residual = call.optional('residual', options.residual, '*M N', ACTIVATIONS)
  const dtype = options.dtype ?? (x.data.dtype === 'f32' ? 'f32' : 'bf16')
  const out = call.output('out', options.out, '*M N', withLast(x.data.shape, n), call.choices('dtype', dtype, ACTIVATIONS))
  call.run([x.data, weight.data, weightScales.tensor, bias, residual, out, xScales.tensor], [weightScales.code, xScales.code])
  return out
}

interface Operand {
  readonly data: Tensor
  readonly quantized: QuantizedTensor | null
  name(argument: string): string
}

function operand(value: Tensor | QuantizedTensor): Operand {
  if (value instanceof Tensor || typeof value !== 'object' || value === null) {
    return { data: value as Tensor, quantized: null, name: (argument) => argument }
  }
  return { data: value.data, quantized: value, name: (argument) => `${argument}.data` }
}

function scalesOf(call: Call, argument: string, { quantized }: Operand, rows: number, cols: number): { tensor: Tensor | null; code: number } {
  if (quantized === null) return { tensor: null, code: 0 }
  const code = call.granularity(`${argument}.granularity`, quantized.granularity)
  return { tensor: call.scales(`${argument}.scaleInv`, quantized.scaleInv, quantized.granularity, rows, cols), code }
}
