import { itemSize } from '@octet-llm/core'
import { activation as op, type ActivationKind } from '../ops/activation.js'
import { SPREADS, activated } from './activation-math.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, VALUES, WIDTHS, product, rms, sampled, values } from './host.js'

const KINDS: readonly ActivationKind[] = ['gelu', 'silu', 'relu', 'qgelu', 'srelu', 'sigmoid', 'geluErf']

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ kind: KINDS, x: ACTIVATIONS, out: ACTIVATIONS, D: [...WIDTHS, 8195], values: VALUES, spread: SPREADS, placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, at.D > 1000 ? 900 : 80),
      make(random) {
        const x = values(random, at.x, [2, at.D], at.values, at.spread)
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: at.out, shape: x.shape, placement: at.placement } },
          call: ({ x, out }) => void op({ x: x!, kind: at.kind, out: out! }),
          expected() {
            const all = Array.from(x.values, (v) => activated(at.kind, v))
            return { out: { values: Float64Array.from(all, (a) => a.value), error: Float64Array.from(all, (a) => a.error), ...rms(at.values, 40) } }
          },
        }
      },
    }
  }
}

export const activation: OpContract = {
  op: 'activation',
  signature: 'x, out [..., D] f32|bf16; kind',
  tolerance: '8 units of 2^-24 times the condition number, and the rounding to out; see activated',
  bytes: ({ N = 1, D = 1 }) => 2 * N * D * itemSize('f32'),
  flops: ({ N = 1, D = 1 }) => 25 * N * D,
  cases,
}
