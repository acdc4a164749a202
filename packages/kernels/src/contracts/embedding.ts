import { itemSize } from '@octet-llm/core'
import { embedding as op } from '../ops/embedding.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, WIDTHS, ints, product, roundTo, sampled, values } from './host.js'
import { badIndex, gathered } from './rows.js'

const TABLES = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'] as const
const VOCAB = 13

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ table: TABLES, out: ACTIVATIONS, T: [0, 1, 6], D: [...WIDTHS, 4099], values: ['normal', 'extreme'] as const, scale: [1, 55.42562584220407], placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, at.D > 1000 ? 120 : 50),
      make(random) {
        const table = values(random, at.table, [VOCAB, at.D], at.values)
        const ids = Array.from({ length: at.T }, () => random.below(VOCAB))
        const factor = Math.fround(at.scale)
        return {
          inputs: { table: { host: table, placement: at.placement }, ids: { host: ints(ids) } },
          outputs: { out: { dtype: at.out, shape: [at.T, at.D], placement: at.placement } },
          call: ({ ids, table, out }) => void op({ ids: ids!, table: table!, scale: at.scale, out: out! }),
          expected: () => ({ out: { values: gathered(table, ids).map((v) => roundTo(at.out, Math.fround(v * factor))) } }),
        }
      },
    }
  }
  yield* badIndex('id', VOCAB, (random, id) => ({
    inputs: { table: { host: values(random, 'f32', [VOCAB, 8]) }, ids: { host: ints([1, id, 2]) } },
    outputs: { out: { dtype: 'f32', shape: [3, 8] } },
    call: ({ ids, table, out }) => void op({ ids: ids!, table: table!, out: out! }),
  }))
}

export const embedding: OpContract = {
  op: 'embedding',
  signature: 'ids [T] i32, table [V, D] f32|bf16|f16|e4m3|e5m2, out [T, D] f32|bf16; scale',
  tolerance: 'exact: float32 product, rounded once to out',
  bytes: ({ T = 1, D = 1 }) => 2 * T * D * itemSize('f32') + 4 * T,
  flops: ({ T = 1, D = 1 }) => T * D,
  cases,
}
