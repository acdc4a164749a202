import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, prefer, withLast, type OpOptions, type QuantizedOutput } from './call.js'

/** Native codes: those of the activation on the gate. */
const KIND_CODES = { geglu: 0, swiglu: 1, reglu: 2, qgeglu: 3, sreglu: 4, glu: 5, gegluErf: 6 } as const

/** The gate's activation: gelu (tanh), silu, relu, qgelu, srelu, sigmoid, gelu (exact). */
export type GatedActivationKind = keyof typeof KIND_CODES

export interface GatedActivationOptions extends OpOptions {
  /** [..., 2I], f32 or bf16: I columns of gate, then I of up. */
  readonly x: Tensor
  readonly kind: GatedActivationKind
  /** [..., I], f32 or bf16. Default: a new tensor of x's dtype. */
  readonly out?: Tensor
  /** Receives the result instead of `out`: rounded to x's dtype, then quantized to e4m3. [..., I]. */
  readonly quantized?: QuantizedOutput
}

/**
 * out = act(gate) * up in float32, rounded once (Shazeer, "GLU Variants Improve Transformer", 2020).
 *
 * @returns out, or quantized.data
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function gatedActivation(options: GatedActivationOptions): Tensor {
  const call = new Call('gatedActivation', options)
  const x = call.input('x', options.x, '*N 2I', ACTIVATIONS)
  const kind = call.choose('kind', options.kind, KIND_CODES)
  const width = call.length('2I')
  if (width % 2 !== 0) call.fail('x', 'an even last axis: gate and up', String(width))
  call.axis('I', width / 2)
  if (options.quantized !== undefined) {
    if (options.out !== undefined) call.fail('out', 'no out beside quantized', 'both')
    const target = call.quantizedOutput(options.quantized, '*N I', call.length('N'), width / 2)
    const [data, scaleInv, scale] = target.tensors
    if (call.length('N') * width === 0) call.runWithoutElements(x, target)
    else call.run([x, data, scaleInv, scale], [kind, ...target.attributes])
    return data
  }
  const out = call.output('out', options.out, '*N I', withLast(x.shape, width / 2), prefer(x.dtype, ACTIVATIONS))
  call.run([x, out, null, null], [kind, 0, false, 0])
  return out
}
