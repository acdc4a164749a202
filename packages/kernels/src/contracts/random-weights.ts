import { itemSize, philox4x32 } from '@octet-llm/core'
import { randomWeights as op } from '../ops/random-weights.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { product, roundTo, sampled } from './host.js'

const DTYPES = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'] as const

/** a (2u - 1) with a = float32(std sqrt(3)); u from word i % 4 of the counter (i / 4, its high word, stream, 1). */
function weight(i: number, seed: number, std: number, stream: number): number {
  const block = Math.floor(i / 4)
  const words = philox4x32([block % 2 ** 32, Math.floor(block / 2 ** 32), stream, 1], [seed % 2 ** 32, Math.floor(seed / 2 ** 32)])
  const u = ((words[i % 4]! >>> 8) + 0.5) / 2 ** 24
  return Math.fround(Math.fround(std * Math.sqrt(3)) * (2 * u - 1))
}

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { out: DTYPES, shape: ['0', '1', '3', '5', '257', '3x7', '7x33', '2x16387'], seed: [0, 7, 2 ** 52 + 1], std: [0.02, 1, 0], stream: [0, 5, 0xffffffff], placement: PLACEMENTS }
  for (const { name, at } of product(axes)) {
    yield {
      name,
      quick: sampled(index++, 60),
      make() {
        const shape = at.shape.split('x').map(Number)
        return {
          inputs: {},
          outputs: { out: { dtype: at.out, shape, placement: at.placement } },
          call: ({ out }) => void op({ out: out!, seed: at.seed, std: at.std, stream: at.stream }),
          expected() {
            const count = shape.reduce((n, d) => n * d, 1)
            return { out: { values: Float64Array.from({ length: count }, (_, i) => roundTo(at.out, weight(i, at.seed, at.std, at.stream))) } }
          },
        }
      },
    }
  }
}

export const randomWeights: OpContract = {
  op: 'randomWeights',
  signature: 'out [...] f32|bf16|f16|e4m3|e5m2; seed, std, stream',
  tolerance: 'exact: the same numbers on every machine',
  bytes: ({ N = 1 }) => N * itemSize('f32'),
  flops: ({ N = 1 }) => 20 * N,
  cases,
  *perf() {
    const N = 2 ** 22
    yield { name: `bf16 N=${N}`, bytes: 2 * N, flops: 20 * N, make: () => ({ inputs: {}, outputs: { out: { dtype: 'bf16', shape: [1, N] } }, call: ({ out }) => void op({ out: out!, seed: 1 }), expected: () => ({}) }) }
  },
}
