import { itemSize } from '@octet-llm/core'
import { logSoftmax as op } from '../ops/log-softmax.js'
import { PLACEMENTS, type ContractCase, type Expected, type InvarianceCase, type OpContract, type Placement, type Run } from './contract.js'
import { ACTIVATIONS, SUM_VALUES, U, WIDTHS, host, product, rms, sampled, values, type HostTensor } from './host.js'
import { treeError } from './norm-cases.js'
import { rowInvariance } from './row-invariance.js'

/**
 * x - m - log(sum). The difference x - m rounds once; the sum's terms carry that difference (a unit of |x - m|, where
 * e^(x - m) is at most 1 / |x - m|-ish: one unit in all), the exponential's 4 and the tree; its logarithm turns the relative
 * error into an absolute one, rounds once, and so does the last difference.
 */
function reference(x: HostTensor): Expected {
  const cols = x.shape[1]!
  const out = new Float64Array(x.values.length)
  const error = new Float64Array(out.length)
  for (let at = 0; at < out.length; at += cols) {
    const row = x.values.subarray(at, at + cols)
    let top = -Infinity
    for (const v of row) if (v > top) top = v
    let sum = 0
    for (const v of row) sum += Math.exp(v - top)
    const log = Math.log(sum)
    row.forEach((v, i) => {
      out[at + i] = v - top - log
      const bound = U * Math.abs(v - top) + treeError(Math.min(cols, 16384)) + 8 * U + U * Math.abs(log)
      error[at + i] = Number.isFinite(bound) ? bound : 0
    })
  }
  return { values: out, error }
}

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: ACTIVATIONS, N: [0, 1, 3], V: [...WIDTHS, 1000, 16384, 16385, 40000], values: SUM_VALUES, spread: [1, 30], placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, at.V > 1000 ? 50 : 20),
      make: (random) => build(values(random, at.x, [at.N, at.V], at.values, at.spread), at.placement, rms(at.values, 8)),
    }
  }
  // The maximum lies in the last piece, and would overflow e^x under the first one's.
  yield { name: 'x=f32 V=40000 values=rising', quick: true, make: () => build(host('f32', [2, 40000], (i) => (i % 40000) / 100), 'plain', { rms: 8 }) }
}

function build(x: HostTensor, placement: Placement, bound: { rms?: number }): Run {
  return {
    inputs: { x: { host: x, placement } },
    outputs: { out: { dtype: 'f32', shape: x.shape, placement } },
    call: ({ x, out }) => void op({ x: x!, out: out! }),
    expected: () => ({ out: { ...reference(x), ...bound } }),
  }
}

export const logSoftmax: OpContract = {
  op: 'logSoftmax',
  signature: 'x [N, V] f32|bf16, out [N, V] f32',
  tolerance: 'log2(V) + 17 units of 2^-24 absolute, and a unit of |x - max|',
  bytes: ({ N = 1, V = 1 }) => 2 * N * V * itemSize('f32'),
  flops: ({ N = 1, V = 1 }) => 20 * N * V,
  cases,
  *invariance(): Generator<InvarianceCase> {
    for (const V of [37, 20000]) yield rowInvariance(`V=${V}`, V, V, (x, _fixed, out) => void op({ x, out }))
  },
}
