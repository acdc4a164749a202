import { gram as op } from '../ops/gram.js'
import { PLACEMENTS, type ContractCase, type OpContract, type PerfCase } from './contract.js'
import { ACTIVATIONS, FORMATS, SUM_VALUES, U, host, product, rms, sampled, values } from './host.js'

/** Rows around the chunks of a sum, channels around vectors, tiles and windows. */
const AXES = { x: ACTIVATIONS, N: [0, 1, 5, 127, 128, 129, 300], K: [1, 3, 4, 16, 33, 65, 100], S: [1, 4, 33, 64, 128], values: SUM_VALUES, placement: PLACEMENTS }

/**
 * A sum of N products and the initial value in float32, in any order: at most N + 2 roundings of partial sums, each of at most
 * the sum of magnitudes, and an underflow a product. A row is mostly its square, 128 growing partial sums that err by a third of
 * their size's unit each: 4 units, four times which no row of the table may pass.
 */
function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product(AXES)) {
    yield {
      name,
      quick: sampled(index++, at.N * at.K > 8000 ? 60 : 25),
      make(random) {
        const { N, K, S } = at
        const x = values(random, at.x, [N, K], at.values)
        const initial = host('f32', [K, S], () => random.normal())
        const expected = Float64Array.from(initial.values)
        const error = new Float64Array(K * S)
        for (let k = 0; k < K; k++) {
          for (let j = 0; j < S && k - (k % S) + j < K; j++) {
            const other = k - (k % S) + j
            // The upper triangle mirrors the lower one.
            const at = Math.max(k, other) * S + (Math.min(k, other) % S)
            let [sum, magnitude] = [initial.values[at]!, Math.abs(initial.values[at]!)]
            for (let n = 0; n < N; n++) {
              const product = x.values[n * K + k]! * x.values[n * K + other]!
              sum += product
              magnitude += Math.abs(product)
            }
            if (N === 0) sum = initial.values[k * S + j]!
            expected[k * S + j] = sum
            error[k * S + j] = N === 0 ? 0 : (N + 2) * (U * magnitude + FORMATS.f32.tiny)
          }
        }
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: 'f32', shape: [K, S], initial, placement: at.placement } },
          call: (t) => void op({ x: t.x!, out: t.out! }),
          expected: () => ({ out: { values: expected, error, ...rms(at.values, 16) } }),
        }
      },
    }
  }
}

function* perf(): Generator<PerfCase> {
  const [N, K, S] = [512, 2048, 1024]
  yield {
    name: `bf16 N=${N} K=${K} S=${S}`,
    bytes: 2 * N * K + 8 * K * S,
    // One triangle.
    flops: N * K * S,
    make: (random) => ({
      inputs: { x: { host: values(random, 'bf16', [N, K]) } },
      outputs: { out: { dtype: 'f32', shape: [K, S], initial: host('f32', [K, S], () => 0) } },
      call: (t) => void op({ x: t.x!, out: t.out! }),
      expected: () => ({}),
    }),
  }
}

export const gram: OpContract = {
  op: 'gram',
  signature: 'x [N, K] f32|bf16, out [K, S] f32 in place',
  tolerance: '(N + 2) roundings of the sum of magnitudes',
  bytes: ({ N = 1, K = 1, S = 1 }) => 4 * N * K + 8 * K * S,
  flops: ({ N = 1, K = 1, S = 1 }) => N * K * S,
  cases,
  perf,
}
