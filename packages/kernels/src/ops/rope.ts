import type { Tensor } from '../tensor.js'
import { ACTIVATIONS, Call, F32, I32, prefer, type OpOptions } from './call.js'

/** What {@link rope} and {@link ropeKvAppend} share. */
export interface RotationOptions extends OpOptions {
  /** D, even, at most 256. */
  readonly headDim: number
  /** [T], i32, each in [0, P). */
  readonly positions: Tensor
  /** [P, D/2], f32: cosine of the angle of each position and pair. */
  readonly cos: Tensor
  /** [P, D/2], f32. */
  readonly sin: Tensor
  /** Pairs are (2i, 2i+1) instead of (i, i + D/2). Default false. */
  readonly interleaved?: boolean
  /** Of the norm per head. Default 1e-6. */
  readonly eps?: number
  /** The norm multiplies by 1 + weight. Default false. */
  readonly zeroCenteredGamma?: boolean
  /** The norm rounds to x's dtype before the weight. Default false. */
  readonly castBeforeWeight?: boolean
}

export interface RopeOptions extends RotationOptions {
  /** [T, H*D], f32 or bf16. */
  readonly x: Tensor
  /** H. */
  readonly heads: number
  /** [D], f32 or bf16: RMSNorm of each head before the rotation (Gemma 3). */
  readonly normWeight?: Tensor
  /** Default: a new tensor of x's shape and dtype. May be x. */
  readonly out?: Tensor
}

/** Checks the rotation's own arguments once T and D are fixed, and returns its attributes from `interleaved` on. */
export function rotation(call: Call, options: RotationOptions): readonly (number | boolean)[] {
  call.axis('D/2', options.headDim / 2)
  call.input('positions', options.positions, 'T', I32)
  call.input('cos', options.cos, 'P D/2', F32)
  call.input('sin', options.sin, 'P D/2', F32)
  const eps = call.real('eps', options.eps ?? 1e-6, 0)
  return [options.interleaved ?? false, eps, options.zeroCenteredGamma ?? false, options.castBeforeWeight ?? false]
}

/** @throws OctetError `INVALID_ARGUMENT` unless D is even and within 2…256. */
export function checkHeadDim(call: Call, headDim: number): number {
  if (call.whole('headDim', headDim, 2, 256) % 2 !== 0) call.fail('headDim', 'an even number', String(headDim))
  call.axis('D', headDim)
  return headDim
}

/**
 * Rotary position embedding: each pair (a, b) of a head becomes (a cos - b sin, b cos + a sin) at its token's position
 * (Su et al., "RoFormer", 2021); optionally after an RMSNorm over the head. A position outside the table is found on
 * the device: the next sync rejects with `OP_FAILED`.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`, `OUT_OF_MEMORY`.
 */
export function rope(options: RopeOptions): Tensor {
  const call = new Call('rope', options)
  const heads = call.whole('heads', options.heads, 1)
  call.axis('H*D', heads * checkHeadDim(call, options.headDim))
  const x = call.input('x', options.x, '*T H*D', ACTIVATIONS)
  const attrs = rotation(call, options)
  const norm = call.optional('normWeight', options.normWeight, 'D', ACTIVATIONS)
  const out = call.output('out', options.out, '*T H*D', x.shape, prefer(x.dtype, ACTIVATIONS))
  call.run([x, options.positions, options.cos, options.sin, out, norm], [heads, options.headDim, ...attrs])
  return out
}
