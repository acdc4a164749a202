/** What the contracts of rmsNorm, layerNorm and the norm inside rope share. */
import type { Expected, Output, Placement, Run } from './contract.js'
import { FORMATS, U, roundTo, values, type HostTensor, type Random, type Values } from './host.js'

/**
 * Relative error of a sum of n non-negative terms by the kernels' tree: 4 additions in a chain, 2 to join the
 * accumulators, one per halving of the row, one per halving of the lanes.
 */
export function treeError(n: number): number {
  return (8 + Math.log2(Math.max(n, 2))) * U
}

export interface Normed {
  readonly values: Float64Array
  readonly error: Float64Array
}

/**
 * x * rsqrt(mean(x^2) + eps) * w. The sum carries treeError(n) and a unit for each square; the mean two units, where it is a
 * product with 1 / n; eps, root and reciprocal a unit each; the root halves what comes in. So the factor is within
 * (treeError / 2 + 4 units) and each of the two products and 1 + w adds a unit. With `castFirst` the normalised value is rounded to `dtype` in
 * between: a value within that error of a tie may go either way.
 */
export function rmsRow(x: Float64Array, w: ArrayLike<number>, eps: number, zeroCentered: boolean, castFirst: 'f32' | 'bf16' | null): Normed {
  const n = x.length
  let sum = 0
  for (const v of x) sum += v * v
  if (sum > FORMATS.f32.max) sum = Infinity // as the float32 sum of squares does: the row becomes 0
  const factor = 1 / Math.sqrt(sum / n + Math.fround(eps))
  const relative = treeError(n) / 2 + 6 * U
  const out = new Float64Array(n)
  const error = new Float64Array(n)
  for (let i = 0; i < n; i++) {
    const gamma = zeroCentered ? 1 + w[i]! : w[i]!
    const normal = x[i]! * factor
    let slack = Math.abs(normal) * relative + FORMATS.f32.tiny
    let middle = normal
    if (castFirst !== null) {
      middle = roundTo(castFirst, normal)
      slack = Math.max(Math.abs(roundTo(castFirst, normal + slack) - middle), Math.abs(roundTo(castFirst, normal - slack) - middle))
    }
    out[i] = middle * gamma
    error[i] = (slack + Math.abs(middle) * 2 * U) * Math.abs(gamma) + FORMATS.f32.tiny
    if (!Number.isFinite(error[i]!)) error[i] = 0
  }
  return { values: out, error }
}

/** s = x (+ residual) as the kernel makes it: a float32 sum (exact in float64 before that), rounded to `dtype`. */
function sumRows(x: HostTensor, residual: HostTensor | null, dtype: 'f32' | 'bf16'): Float64Array {
  return x.values.map((v, i) => roundTo(dtype, residual === null ? v : Math.fround(v + residual.values[i]!)))
}

export const RESIDUALS = ['none', 'in', 'inout', 'out'] as const

export interface NormAxes {
  readonly x: 'f32' | 'bf16'
  readonly weight: 'f32' | 'bf16'
  readonly out: 'f32' | 'bf16'
  readonly D: number
  readonly values: Values
  readonly placement: Placement
  readonly residual: (typeof RESIDUALS)[number]
}

/** Inputs and outputs that both norms share; the residual and its sum have x's dtype. */
export function arrange(random: Random, at: NormAxes, rows: number) {
  const x = values(random, at.x, [rows, at.D], at.values)
  const weight = values(random, at.weight, [at.D])
  const residual = at.residual === 'in' || at.residual === 'inout' ? values(random, at.x, x.shape, at.values) : null
  const sums = sumRows(x, residual, at.x)
  const keepsSum = at.residual === 'inout' || at.residual === 'out'
  const inputs: Record<string, Run['inputs'][string]> = { x: { host: x, placement: at.placement }, weight: { host: weight } }
  if (residual !== null) inputs['residual'] = { host: residual, placement: at.placement }
  const outputs: Record<string, Output> = { out: { dtype: at.out, shape: x.shape, placement: at.placement } }
  if (keepsSum) outputs['residualOut'] = { dtype: at.x, shape: x.shape, placement: at.placement }
  return { weight, sums, inputs, outputs, sumOutput: (): Record<string, Expected> => (keepsSum ? { residualOut: { values: sums } } : {}) }
}

export function byRows(sums: Float64Array, d: number, row: (s: Float64Array) => Normed): Normed {
  const out = new Float64Array(sums.length)
  const error = new Float64Array(sums.length)
  for (let at = 0; at < sums.length; at += d) {
    const normed = row(sums.subarray(at, at + d))
    out.set(normed.values, at)
    error.set(normed.error, at)
  }
  return { values: out, error }
}

type Tensors = Parameters<Run['call']>[0]
export function optional(t: Tensors) {
  return { ...(t['residual'] && { residual: t['residual'] }), ...(t['residualOut'] && { residualOut: t['residualOut'] }), out: t['out']! }
}
