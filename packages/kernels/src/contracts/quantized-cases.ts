/** Ops that leave their result in FP8: what its codes and scales may be, given how far the result itself may be off. */
import type { ScaleGranularity } from '@octet-llm/core'
import type { QuantizedOutput } from '../ops/call.js'
import type { Tensor } from '../tensor.js'
import type { Expected, Input, Output, Placement } from './contract.js'
import { FORMATS, host, roundTo, type Random } from './host.js'
import { scaleIndex, scaleOf } from './scale-cases.js'

/** Rows and columns of results without elements: their scales are what quantize gives them. */
export const EMPTY = [[3, 0], [0, 0], [0, 128]] as const

/** Granularities of a result that is made row by row; `tensor` takes a given scale. */
export const ROW_GRANULARITIES = ['tensor', 'row', 'block1x128'] as const

export interface QuantizedAxes {
  /** Dtype that the result is rounded to before it is quantized. */
  readonly x: 'f32' | 'bf16'
  readonly granularity: ScaleGranularity
  readonly powerOf2: boolean
  readonly placement: Placement
  /** Default 0. */
  readonly epsilon?: number
}

/** The op's result before any rounding, and how far a kernel may be from it. */
export interface Inexact {
  readonly values: Float64Array
  readonly error: Float64Array
}

interface Span {
  readonly low: number
  readonly high: number
}

/**
 * Tensors of a quantized result [rows, cols], and the ranges its codes and scales must lie in. The result lies between value - error
 * and value + error, rounded; so does the largest magnitude of a scale's elements, hence the scale, hence each product. Every
 * step is monotonic, so the ends of one range give the ends of the next: away from ties they are one and the same code.
 */
export function quantizedCase(random: Random, at: QuantizedAxes, rows: number, cols: number) {
  const epsilon = at.epsilon ?? 0
  const { count, shape, of } = scaleIndex(at.granularity, rows, cols)
  const scale = at.granularity === 'tensor' ? host('f32', [1], () => 2 ** (6 * random.uniform() - 1)) : null
  const outputs: Record<string, Output> = {
    data: { dtype: 'e4m3', shape: [rows, cols], placement: at.placement },
    scaleInv: { dtype: 'f32', shape },
  }
  const inputs: Record<string, Input> = scale === null ? {} : { scale: { host: scale } }
  const target = (t: Readonly<Record<string, Tensor>>): QuantizedOutput => ({ data: t['data']!, scaleInv: t['scaleInv']!, granularity: at.granularity, scale: t['scale'], powerOf2: at.powerOf2, epsilon })
  const expected = ({ values, error }: Inexact): Readonly<Record<string, Expected>> => {
    const spans = Array.from(values, (v, i): Span => ({ low: roundTo(at.x, v - error[i]!), high: roundTo(at.x, v + error[i]!) }))
    const tops = Array.from({ length: count }, (): { low: number; high: number } => ({ low: 0, high: 0 }))
    spans.forEach(({ low, high }, i) => {
      const top = tops[of(Math.floor(i / cols), i % cols)]!
      top.high = Math.max(top.high, Math.abs(low), Math.abs(high))
      top.low = Math.max(top.low, low > 0 ? low : high < 0 ? -high : 0)
    })
    const scaleFor = (amax: number) => scaleOf(amax, 'e4m3', epsilon, at.powerOf2)
    const scales = tops.map(({ low, high }): Span => {
      if (scale !== null) return { low: scale.values[0]!, high: scale.values[0]! }
      // An amax of 0 has the scale 1, one just above it the largest there is.
      return low === 0 && high > 0 ? { low: Math.min(1, scaleFor(high)), high: FORMATS.f32.max } : { low: scaleFor(high), high: scaleFor(low) }
    })
    const code = (v: number, s: number) => roundTo('e4m3', Math.fround(v * s))
    return {
      data: {
        values,
        accepts(i, got) {
          const { low, high } = spans[i]!
          const s = scales[of(Math.floor(i / cols), i % cols)]!
          return got >= code(low, low < 0 ? s.high : s.low) && got <= code(high, high < 0 ? s.low : s.high)
        },
      },
      scaleInv: { values: Float64Array.from(scales, (s) => Math.fround(1 / s.low)), accepts: (i, got) => got >= Math.fround(1 / scales[i]!.high) && got <= Math.fround(1 / scales[i]!.low) },
    }
  }
  return { inputs, outputs, target, expected }
}
