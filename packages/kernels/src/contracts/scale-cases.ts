/** The scale rules in float64, shared by the contracts of amax, quantize, dequantize and linear. */
import type { ScaleGranularity } from '@octet-llm/core'
import { scaleShape } from '../ops/call.js'
import { FORMATS, type HostTensor } from './host.js'

export const GRANULARITIES: readonly ScaleGranularity[] = ['tensor', 'row', 'block1x128', 'block128x128']

/** Which scale each element of [rows, cols] has. */
export function scaleIndex(granularity: ScaleGranularity, rows: number, cols: number): { count: number; shape: readonly number[]; of: (row: number, col: number) => number } {
  const shape = scaleShape(granularity, rows, cols)
  const across = Math.ceil(cols / 128)
  const of = {
    tensor: () => 0,
    row: (row: number) => row,
    block1x128: (row: number, col: number) => row * across + Math.floor(col / 128),
    block128x128: (row: number, col: number) => Math.floor(row / 128) * across + Math.floor(col / 128),
  }[granularity]
  return { count: shape.reduce((n, d) => n * d, 1), shape, of }
}

/** Largest magnitude; NaN if any is. */
export function amaxOf(all: Iterable<number>): number {
  let top = 0
  for (const v of all) {
    if (Number.isNaN(v)) return NaN
    top = Math.max(top, Math.abs(v))
  }
  return top
}

/**
 * Current and block scaling's rule: amax is floored at epsilon; 0, infinity and NaN give 1; else largest / amax rounded to
 * float32, infinity becomes the largest float32, and powerOf2 clears the mantissa bits.
 */
export function scaleOf(amax: number, dtype: 'e4m3' | 'e5m2', epsilon: number, powerOf2: boolean): number {
  const floored = amax < Math.fround(epsilon) ? Math.fround(epsilon) : amax
  if (!(floored > 0) || floored === Infinity) return 1
  const scale = Math.min(Math.fround(FORMATS[dtype].max / floored), FORMATS.f32.max)
  if (!powerOf2) return scale
  const word = new Uint32Array(Float32Array.of(scale).buffer)
  word[0]! &= 0xff800000
  return new Float32Array(word.buffer)[0]!
}

/** value * scaleInv of every element. */
export function dequantized(data: HostTensor, scaleInv: HostTensor, granularity: ScaleGranularity): Float64Array {
  const [rows, cols] = data.shape as [number, number]
  const { of } = scaleIndex(granularity, rows, cols)
  return data.values.map((v, i) => v * scaleInv.values[of(Math.floor(i / cols), i % cols)]!)
}
