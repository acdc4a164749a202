import { itemSize } from '@octet-llm/core'
import { dequantize as op } from '../ops/dequantize.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, fromCodes, host, product, roundTo, sampled } from './host.js'
import { GRANULARITIES, dequantized, scaleIndex } from './scale-cases.js'

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { data: ['e4m3', 'e5m2'] as const, out: ACTIVATIONS, granularity: GRANULARITIES, N: [0, 1, 3, 129], K: [1, 7, 16, 17, 64, 127, 128, 129, 300], placement: PLACEMENTS }
  for (const { name, at } of product(axes)) {
    yield {
      name,
      quick: sampled(index++, 14),
      make(random) {
        // All codes, NaN and infinity included.
        const data = fromCodes(at.data, [at.N, at.K], Uint8Array.from({ length: at.N * at.K }, () => random.below(256)))
        const scaleInv = host('f32', scaleIndex(at.granularity, at.N, at.K).shape, () => 2 ** (20 * random.uniform() - 10))
        return {
          inputs: { data: { host: data, placement: at.placement }, scaleInv: { host: scaleInv } },
          outputs: { out: { dtype: at.out, shape: data.shape, placement: at.placement } },
          call: (t) => void op({ x: { data: t.data!, scaleInv: t.scaleInv!, granularity: at.granularity }, out: t.out! }),
          expected: () => ({ out: { values: dequantized(data, scaleInv, at.granularity).map((v) => roundTo(at.out, Math.fround(v))) } }),
        }
      },
    }
  }
}

export const dequantize: OpContract = {
  op: 'dequantize',
  signature: 'data [N, K] e4m3|e5m2, scaleInv f32, out [N, K] f32|bf16',
  tolerance: 'exact: float32 product, rounded once to out',
  bytes: ({ N = 1, K = 1 }) => N * K * (1 + itemSize('f32')),
  flops: ({ N = 1, K = 1 }) => N * K,
  cases,
}
