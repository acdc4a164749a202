import { gatherRows as op } from '../ops/gather-rows.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { randomCodes } from './copy.js'
import { WIDTHS, ints, product, sampled, values } from './host.js'
import { DTYPES, badIndex, gathered, rowBytes } from './rows.js'

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: DTYPES, R: [0, 1, 7], D: [...WIDTHS, 16385], placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, 20),
      make(random) {
        const x = randomCodes(random, at.x, [5, at.D])
        const rows = Array.from({ length: at.R }, () => random.below(5))
        return {
          inputs: { x: { host: x, placement: at.placement }, rows: { host: ints(rows) } },
          outputs: { out: { dtype: at.x, shape: [at.R, at.D], placement: at.placement } },
          call: ({ x, rows, out }) => void op({ x: x!, rows: rows!, out: out! }),
          expected: () => ({ out: { values: gathered(x, rows) } }),
        }
      },
    }
  }
  yield* badIndex('row', 5, (random, row) => ({
    inputs: { x: { host: values(random, 'f32', [5, 8]) }, rows: { host: ints([row]) } },
    outputs: { out: { dtype: 'f32', shape: [1, 8] } },
    call: ({ x, rows, out }) => void op({ x: x!, rows: rows!, out: out! }),
  }))
}

export const gatherRows: OpContract = {
  op: 'gatherRows',
  signature: 'x [N, D] any dtype, rows [R] i32, out [R, D] like x',
  tolerance: 'exact',
  bytes: rowBytes,
  flops: () => 0,
  cases,
}
