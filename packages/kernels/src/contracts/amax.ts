import { itemSize } from '@octet-llm/core'
import { amax as op } from '../ops/amax.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, VALUES, WIDTHS, product, sampled, values } from './host.js'
import { amaxOf } from './scale-cases.js'

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: ACTIVATIONS, N: [0, 1, 5], K: [...WIDTHS, 16385, 40000], granularity: ['tensor', 'row'] as const, values: VALUES, placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, at.K > 1000 ? 60 : 20),
      make(random) {
        const x = values(random, at.x, [at.N, at.K], at.values)
        const rows = Array.from({ length: at.N }, (_, n) => amaxOf(x.values.subarray(n * at.K, (n + 1) * at.K)))
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: 'f32', shape: [at.granularity === 'row' ? at.N : 1] } },
          call: ({ x, out }) => void op({ x: x!, granularity: at.granularity, out: out! }),
          expected: () => ({ out: { values: Float64Array.from(at.granularity === 'row' ? rows : [amaxOf(rows)]) } }),
        }
      },
    }
  }
}

export const amax: OpContract = {
  op: 'amax',
  signature: 'x [N, K] f32|bf16, out [1] or [N] f32',
  tolerance: 'exact; NaN if any element is',
  bytes: ({ N = 1, K = 1 }) => N * K * itemSize('f32'),
  flops: ({ N = 1, K = 1 }) => N * K,
  cases,
}
