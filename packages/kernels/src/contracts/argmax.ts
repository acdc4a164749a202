import { itemSize } from '@octet-llm/core'
import { argmax as op } from '../ops/argmax.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, VALUES, WIDTHS, host, product, sampled, values, type HostTensor, type Random } from './host.js'

const KINDS = [...VALUES, 'ties', 'nan', 'nan-but-last', 'minus-infinity'] as const
type Kind = (typeof KINDS)[number]

function inputOf(random: Random, dtype: 'f32' | 'bf16', shape: readonly number[], kind: Kind): HostTensor {
  const last = (i: number): boolean => i % (shape[1] ?? 0) === (shape[1] ?? 0) - 1
  switch (kind) {
    case 'ties':
      return host(dtype, shape, () => random.below(3))
    case 'nan':
      return host(dtype, shape, () => NaN)
    case 'nan-but-last':
      return host(dtype, shape, (i) => (last(i) ? -Infinity : NaN))
    case 'minus-infinity':
      return host(dtype, shape, () => (random.uniform() < 0.5 ? NaN : -Infinity))
    default:
      return values(random, dtype, shape, kind)
  }
}

/** Lowest index of the largest; NaN never, unless there is nothing else: then 0. */
function largest(row: Float64Array): number {
  let best = -1
  row.forEach((v, i) => {
    if (!Number.isNaN(v) && (best < 0 || v > row[best]!)) best = i
  })
  return Math.max(best, 0)
}

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: ACTIVATIONS, N: [0, 1, 5], V: [...WIDTHS, 1000, 16384, 16385, 40000], values: KINDS, placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, at.V > 1000 ? 40 : 14),
      make(random) {
        const x = inputOf(random, at.x, [at.N, at.V], at.values)
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: 'i32', shape: [at.N] } },
          call: ({ x, out }) => void op({ x: x!, out: out! }),
          expected: () => ({ out: { values: Float64Array.from({ length: at.N }, (_, n) => largest(x.values.subarray(n * at.V, (n + 1) * at.V))) } }),
        }
      },
    }
  }
}

export const argmax: OpContract = {
  op: 'argmax',
  signature: 'x [N, V] f32|bf16, out [N] i32',
  tolerance: 'exact; ties to the lowest index',
  bytes: ({ N = 1, V = 1 }) => N * V * itemSize('f32') + 4 * N,
  flops: ({ N = 1, V = 1 }) => N * V,
  cases,
  *perf() {
    for (const N of [1, 8]) {
      const V = 128256
      yield {
        name: `f32 N=${N} V=${V}`,
        bytes: 4 * N * V,
        flops: N * V,
        make: (random) => ({
          inputs: { x: { host: values(random, 'f32', [N, V]) } },
          outputs: { out: { dtype: 'i32', shape: [N] } },
          call: ({ x, out }) => void op({ x: x!, out: out! }),
          expected: () => ({}),
        }),
      }
    }
  },
}
