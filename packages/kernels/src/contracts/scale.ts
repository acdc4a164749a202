import { itemSize } from '@octet-llm/core'
import { scale as op } from '../ops/scale.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, VALUES, WIDTHS, product, roundTo, sampled, values } from './host.js'

const FACTORS = [0, 1, -2.5, 1 / 3, 1e-30, 1e30, 45.254833995939045]

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: ACTIVATIONS, out: ACTIVATIONS, D: WIDTHS, values: VALUES, factor: FACTORS, placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, 60),
      make(random) {
        const x = values(random, at.x, [2, at.D], at.values)
        const factor = Math.fround(at.factor)
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: at.out, shape: x.shape, placement: at.placement } },
          call: ({ x, out }) => void op({ x: x!, factor: at.factor, out: out! }),
          // A product of two float32 is exact in float64.
          expected: () => ({ out: { values: x.values.map((v) => roundTo(at.out, Math.fround(v * factor))) } }),
        }
      },
    }
  }
}

export const scale: OpContract = {
  op: 'scale',
  signature: 'x, out [..., D] f32|bf16; factor',
  tolerance: 'exact: float32 product, rounded once to out',
  bytes: ({ N = 1, D = 1 }) => 2 * N * D * itemSize('f32'),
  flops: ({ N = 1, D = 1 }) => N * D,
  cases,
}
