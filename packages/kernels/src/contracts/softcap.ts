import { itemSize } from '@octet-llm/core'
import { softcap as op } from '../ops/softcap.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, U, VALUES, WIDTHS, product, rms, sampled, values } from './host.js'

/**
 * out = cap * tanh(x / cap). The quotient, tanh (within 4 ulp) and the product each add a relative error of at most a few
 * units; the condition number z (1 - tanh(z)^2) / tanh(z) of tanh is at most 1, so 8 units hold; `tiny` covers results
 * among the subnormals.
 */
function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: ACTIVATIONS, out: ACTIVATIONS, D: WIDTHS, values: VALUES, cap: [0.5, 30, 50], spread: [1, 40], placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, 60),
      make(random) {
        const x = values(random, at.x, [2, at.D], at.values, at.spread)
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: at.out, shape: x.shape, placement: at.placement } },
          call: ({ x, out }) => void op({ x: x!, cap: at.cap, out: out! }),
          expected() {
            const result = x.values.map((v) => at.cap * Math.tanh(v / at.cap))
            return { out: { values: result, error: result.map((v) => 8 * U * Math.abs(v) + 2 ** -140), ...rms(at.values, 4) } }
          },
        }
      },
    }
  }
}

export const softcap: OpContract = {
  op: 'softcap',
  signature: 'x, out [..., D] f32|bf16; cap',
  tolerance: '8 units of 2^-24, and the rounding to out',
  bytes: ({ N = 1, D = 1 }) => 2 * N * D * itemSize('f32'),
  flops: ({ N = 1, D = 1 }) => 20 * N * D,
  cases,
}
