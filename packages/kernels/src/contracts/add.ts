import { itemSize } from '@octet-llm/core'
import { add as op } from '../ops/add.js'
import { PLACEMENTS, type ContractCase, type OpContract, type PerfCase } from './contract.js'
import { ACTIVATIONS, VALUES, WIDTHS, product, roundTo, sampled, values } from './host.js'

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { a: ACTIVATIONS, b: ACTIVATIONS, out: ACTIVATIONS, D: [...WIDTHS, 16385], values: VALUES, placement: PLACEMENTS, into: ['new', 'a'] }
  for (const { name, at } of product(axes)) {
    if (at.into === 'a' && at.a !== at.out) continue
    yield {
      name,
      quick: sampled(index++, 60),
      make(random) {
        const shape = at.D > 10000 ? [2, at.D] : [3, at.D]
        const a = values(random, at.a, shape, at.values)
        const b = values(random, at.b, shape, at.values)
        const inPlace = at.into === 'a'
        return {
          inputs: { b: { host: b }, ...(inPlace ? {} : { a: { host: a, placement: at.placement } }) },
          outputs: { out: { dtype: at.out, shape, placement: at.placement, ...(inPlace ? { initial: a } : {}) } },
          call: (t) => void op({ a: inPlace ? t.out! : t.a!, b: t.b!, out: t.out! }),
          // A float64 sum of two float32 rounds to float32 as one rounding would (53 >= 2 * 24 + 2 bits).
          expected: () => ({ out: { values: a.values.map((v, i) => roundTo(at.out, Math.fround(v + b.values[i]!))) } }),
        }
      },
    }
  }
}

function* perf(): Generator<PerfCase> {
  for (const D of [2048 * 16, 2048 * 512]) {
    yield {
      name: `bf16 N=1 D=${D}`,
      bytes: 3 * D * 2,
      flops: D,
      make: (random) => ({
        inputs: { a: { host: values(random, 'bf16', [1, D]) }, b: { host: values(random, 'bf16', [1, D]) } },
        outputs: { out: { dtype: 'bf16', shape: [1, D] } },
        call: ({ a, b, out }) => void op({ a: a!, b: b!, out: out! }),
        expected: () => ({}),
      }),
    }
  }
}

export const add: OpContract = {
  op: 'add',
  signature: 'a, b, out [..., D] f32|bf16',
  tolerance: 'exact: float32 sum, rounded once to out',
  bytes: ({ N = 1, D = 1 }) => 3 * N * D * itemSize('f32'),
  flops: ({ N = 1, D = 1 }) => N * D,
  cases,
  perf,
}
