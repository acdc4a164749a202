import { itemSize } from '@octet-llm/core'
import { layerNorm as op } from '../ops/layer-norm.js'
import { PLACEMENTS, type ContractCase, type InvarianceCase, type OpContract } from './contract.js'
import { ACTIVATIONS, FORMATS, SUM_VALUES, U, WIDTHS, product, rms, sampled, values } from './host.js'
import { RESIDUALS, arrange, byRows, optional, treeError, type Normed } from './norm-cases.js'
import { rowInvariance } from './row-invariance.js'

/**
 * (s - m) * rsqrt(mean((s - m)^2) + eps) * w + b. The mean is off by at most e = (treeError + unit) mean|s|; that moves
 * each centred value by e + a unit of itself, and the variance by treeError + 3 units (one of them for a product with 1 / n in
 * place of a division) + 2 e mean|s - m| + e^2. The root halves the relative error of variance + eps; factor, products, 1 + w
 * and the last addition add a unit each.
 */
function layerRow(s: Float64Array, w: ArrayLike<number>, b: ArrayLike<number> | null, eps: number, zeroCentered: boolean): Normed {
  const n = s.length
  let sum = 0
  let magnitude = 0
  for (const v of s) {
    sum += v
    magnitude += Math.abs(v)
  }
  const mean = sum / n
  const meanError = ((treeError(n) + U) * magnitude) / n
  let square = 0
  let spread = 0
  for (const v of s) {
    square += (v - mean) ** 2
    spread += Math.abs(v - mean)
  }
  const variance = square / n + Math.fround(eps)
  const varianceError = (treeError(n) + 3 * U) * (square / n) + (2 * meanError * spread) / n + meanError ** 2 + U * variance
  const factor = 1 / Math.sqrt(variance)
  const relative = varianceError / variance / 2 + 4 * U
  const out = new Float64Array(n)
  const error = new Float64Array(n)
  for (let i = 0; i < n; i++) {
    const gamma = zeroCentered ? 1 + w[i]! : w[i]!
    const centred = s[i]! - mean
    const scaled = centred * factor * gamma
    out[i] = scaled + (b?.[i] ?? 0)
    error[i] = Math.abs(scaled) * (relative + 3 * U) + (meanError + Math.abs(centred) * U) * Math.abs(factor * gamma) + Math.abs(out[i]!) * U + 8 * FORMATS.f32.tiny * (1 + Math.abs(gamma) * factor)
    if (!Number.isFinite(error[i]!)) error[i] = 0
  }
  return { values: out, error }
}

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { x: ACTIVATIONS, weight: ACTIVATIONS, bias: ['none', ...ACTIVATIONS], out: ACTIVATIONS, D: [...WIDTHS, 2048, 5000], values: [...SUM_VALUES, 'shifted'] as const, placement: PLACEMENTS, residual: RESIDUALS, centred: [false, true] }
  for (const { name, at } of product(axes)) {
    const eps = 1e-5
    yield {
      name,
      quick: sampled(index++, at.D > 1000 ? 700 : 260),
      make(random) {
        const { weight, sums, inputs, outputs, sumOutput } = arrange(random, at, at.D > 1000 ? 2 : 3)
        const bias = at.bias === 'none' ? null : values(random, at.bias as 'f32' | 'bf16', [at.D])
        return {
          inputs: bias === null ? inputs : { ...inputs, bias: { host: bias } },
          outputs,
          call: (t) => void op({ x: t.x!, weight: t.weight!, eps, zeroCenteredGamma: at.centred, ...(t.bias && { bias: t.bias }), ...optional(t) }),
          expected: () => ({
            out: { ...byRows(sums, at.D, (s) => layerRow(s, weight.values, bias?.values ?? null, eps, at.centred)), ...rms(at.values, 4) },
            ...sumOutput(),
          }),
        }
      },
    }
  }
}

export const layerNorm: OpContract = {
  op: 'layerNorm',
  signature: 'x [N, D], weight [D], bias? [D], residual?, out, residualOut? f32|bf16; eps, zeroCenteredGamma',
  tolerance: 'forward error of mean and variance by the fixed tree; see layerRow',
  bytes: ({ N = 1, D = 1 }) => (2 * N * D + 2 * D) * itemSize('f32'),
  flops: ({ N = 1, D = 1 }) => 8 * N * D,
  cases,
  *invariance(): Generator<InvarianceCase> {
    for (const D of [7, 64, 5000]) {
      yield rowInvariance(`D=${D}`, D, D, (x, fixed, out) => void op({ x, weight: fixed, out }))
    }
  },
}
