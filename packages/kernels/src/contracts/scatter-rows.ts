import { scatterRows as op } from '../ops/scatter-rows.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { randomCodes } from './copy.js'
import { WIDTHS, ints, product, sampled, values } from './host.js'
import { DTYPES, badIndex, rowBytes } from './rows.js'

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: DTYPES, R: [0, 1, 4], D: [...WIDTHS, 16385], placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, 20),
      make(random) {
        const x = randomCodes(random, at.x, [at.R, at.D])
        const before = randomCodes(random, at.x, [6, at.D])
        const rows = random.permutation(6).slice(0, at.R)
        return {
          inputs: { x: { host: x, placement: at.placement }, rows: { host: ints(rows) } },
          outputs: { out: { dtype: at.x, shape: before.shape, placement: at.placement, initial: before } },
          call: ({ x, rows, out }) => void op({ x: x!, rows: rows!, out: out! }),
          expected() {
            const after = before.values.slice()
            rows.forEach((row, r) => after.set(x.values.subarray(r * at.D, (r + 1) * at.D), row * at.D))
            return { out: { values: after } }
          },
        }
      },
    }
  }
  yield* badIndex('row', 6, (random, row) => ({
    inputs: { x: { host: values(random, 'f32', [2, 8]) }, rows: { host: ints([0, row]) } },
    outputs: { out: { dtype: 'f32', shape: [6, 8], initial: values(random, 'f32', [6, 8]) } },
    call: ({ x, rows, out }) => void op({ x: x!, rows: rows!, out: out! }),
  }))
}

export const scatterRows: OpContract = {
  op: 'scatterRows',
  signature: 'x [R, D] any dtype, rows [R] i32, out [N, D] like x',
  tolerance: 'exact',
  bytes: rowBytes,
  flops: () => 0,
  cases,
}
