import type { Tensor } from '../tensor.js'
import { Call, F32, type OpOptions } from './call.js'

const ALGORITHM_CODES = { max: 0, most_recent: 1 } as const

export interface UpdateScaleOptions extends OpOptions {
  /** [..., L] with N histories, f32, in place: entry 0 collects the current step, 1 … L - 1 are oldest to newest. */
  readonly amaxHistory: Tensor
  /** [N], f32, in place: what multiplies before a cast to FP8. */
  readonly scale: Tensor
  /** Largest finite value of the FP8 type: 448 or 57344. */
  readonly fp8Max: number
  /** The scale leaves 2^margin of headroom. Default 0. */
  readonly margin?: number
  /** Which amax rules: the largest of the history, or the current one. Default `max`. */
  readonly algorithm?: keyof typeof ALGORITHM_CODES
}

/**
 * The end of a step of delayed scaling, for every history by itself, by TransformerEngine's fused rule
 * (`updateDelayedScaling` of fp8-recipe): with last = entry 0, nothing changes where last is 0; else the history moves by
 * one towards its start, its end becomes last and entry 0 becomes 0, and scale = (fp8Max * 2^-margin) / amax, amax being
 * last or the largest of the moved history, NaN passed over. An amax that is not finite and positive keeps the scale; an
 * infinite scale becomes the largest float32.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`.
 */
export function updateScale(options: UpdateScaleOptions): void {
  const call = new Call('updateScale', options)
  const history = call.input('amaxHistory', options.amaxHistory, '*N L', F32)
  if (call.length('L') === 0) call.fail('amaxHistory', 'at least one entry', 'none')
  const scale = call.input('scale', options.scale, 'N', F32)
  const fp8Max = call.real('fp8Max', options.fp8Max, 2 ** -149)
  const margin = call.real('margin', options.margin ?? 0)
  const algorithm = call.choose('algorithm', options.algorithm ?? 'max', ALGORITHM_CODES)
  call.run([history, scale], [Math.fround(fp8Max * 2 ** -margin), algorithm])
}
