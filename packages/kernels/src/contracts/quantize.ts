import { itemSize } from '@octet-llm/core'
import { quantize as op } from '../ops/quantize.js'
import { PLACEMENTS, type ContractCase, type OpContract, type PerfCase, type Run } from './contract.js'
import { ACTIVATIONS, VALUES, host, product, roundTo, sampled, spread, values, type HostTensor } from './host.js'
import { GRANULARITIES, amaxOf, scaleIndex, scaleOf } from './scale-cases.js'

const FP8 = ['e4m3', 'e5m2'] as const
const COLS = [1, 3, 7, 16, 17, 33, 64, 127, 128, 129, 255, 257, 300]
/** Multiples of the inputs: scales past float32's largest, exact powers of two in reach, common, small. */
const SPREADS = [1e-39, 1e-30, 1, 1000]

interface Axes {
  readonly x: 'f32' | 'bf16'
  readonly data: 'e4m3' | 'e5m2'
  readonly granularity: (typeof GRANULARITIES)[number]
  readonly N: number
  readonly K: number
  readonly scale: 'made' | 'given'
  readonly powerOf2: boolean
  readonly epsilon: number
}

/** data = fp8(float32(x * scale)), scaleInv = float32(1 / scale). */
function reference(x: HostTensor, at: Axes, given: HostTensor | null): { data: Float64Array; scaleInv: Float64Array } {
  const { count, of } = scaleIndex(at.granularity, at.N, at.K)
  const members: number[][] = Array.from({ length: count }, () => [])
  x.values.forEach((v, i) => members[of(Math.floor(i / at.K), i % at.K)]!.push(v))
  const scales = given?.values ?? Float64Array.from(members, (m) => scaleOf(amaxOf(m), at.data, at.epsilon, at.powerOf2))
  return {
    data: x.values.map((v, i) => roundTo(at.data, Math.fround(v * scales[of(Math.floor(i / at.K), i % at.K)]!))),
    scaleInv: scales.map((s) => Math.fround(1 / s)),
  }
}

function build(x: HostTensor, given: HostTensor | null, at: Axes, placement: (typeof PLACEMENTS)[number]): Run {
  const { shape } = scaleIndex(at.granularity, at.N, at.K)
  return {
    inputs: { x: { host: x, placement }, ...(given && { scale: { host: given } }) },
    outputs: { data: { dtype: at.data, shape: x.shape, placement }, scaleInv: { dtype: 'f32', shape } },
    call: (t) => void op({ x: t.x!, granularity: at.granularity, powerOf2: at.powerOf2, epsilon: at.epsilon, ...(t.scale && { scale: t.scale }), data: t.data!, scaleInv: t.scaleInv! }),
    expected() {
      const { data, scaleInv } = reference(x, at, given)
      return { data: { values: data }, scaleInv: { values: scaleInv } }
    },
  }
}

function* cases(): Generator<ContractCase> {
  const axes = {
    x: ACTIVATIONS,
    data: FP8,
    granularity: GRANULARITIES,
    N: [0, 1, 3, 127, 129],
    K: COLS,
    scale: ['made', 'given'] as const,
    powerOf2: [false, true],
    epsilon: [0, 1e-12, 5],
    values: VALUES,
    spread: SPREADS,
    placement: PLACEMENTS,
  }
  let index = 0
  for (const { name, at } of spread(axes, 8000)) {
    yield {
      name,
      quick: sampled(index++, at.N * at.K > 5000 ? 200 : 50),
      make(random) {
        const { shape } = scaleIndex(at.granularity, at.N, at.K)
        const given = at.scale === 'given' ? host('f32', shape, () => 2 ** (8 * random.uniform() - 4)) : null
        return build(values(random, at.x, [at.N, at.K], at.values, at.spread), given, at, at.placement)
      },
    }
  }
}

/**
 * Inputs whose product with a given scale falls on a tie between two codes, or an ulp beside it: only the right product,
 * rounded once, gives the right code.
 */
function* ties(): Generator<ContractCase> {
  for (const data of FP8) {
    for (const granularity of GRANULARITIES) {
      const at: Axes = { x: 'f32', data, granularity, N: 32, K: 300, scale: 'given', powerOf2: false, epsilon: 0 }
      yield {
        name: `data=${data} granularity=${granularity} values=ties`,
        quick: true,
        make(random) {
          const { shape, of } = scaleIndex(granularity, at.N, at.K)
          const scale = host('f32', shape, () => 0.5 + random.uniform())
          const steps = data === 'e4m3' ? 8 : 4
          const x = host('f32', [at.N, at.K], (i) => {
            const tie = ((steps + random.below(steps) + 0.5) / steps) * 2 ** (random.below(12) - 6)
            return (random.uniform() < 0.5 ? -tie : tie) / scale.values[of(Math.floor(i / at.K), i % at.K)]!
          })
          return build(x, scale, at, 'plain')
        },
      }
    }
  }
}

/** No elements: scales by tensor and by row are written all the same. */
function* empty(): Generator<ContractCase> {
  for (const { name, at } of product({ x: ACTIVATIONS, data: FP8, granularity: GRANULARITIES, N: [0, 3], scale: ['made', 'given'] as const, epsilon: [0, 5] })) {
    yield {
      name: `${name} K=0`,
      quick: true,
      make(random) {
        const { shape } = scaleIndex(at.granularity, at.N, 0)
        const given = at.scale === 'given' ? host('f32', shape, () => 2 ** (8 * random.uniform() - 4)) : null
        return build(values(random, at.x, [at.N, 0]), given, { ...at, K: 0, powerOf2: false }, 'plain')
      },
    }
  }
}

function* perf(): Generator<PerfCase> {
  for (const granularity of GRANULARITIES) {
    const [N, K] = [1024, 2048]
    const at: Axes = { x: 'bf16', data: 'e4m3', granularity, N, K, scale: 'made', powerOf2: false, epsilon: 0 }
    yield { name: `bf16 ${granularity} N=${N} K=${K}`, bytes: 3 * N * K, flops: 2 * N * K, make: (random) => build(values(random, 'bf16', [N, K]), null, at, 'plain') }
  }
}

export const quantize: OpContract = {
  op: 'quantize',
  signature: 'x [N, K] f32|bf16, data [N, K] e4m3|e5m2, scaleInv f32 ([1], [N], [N, K/128], [N/128, K/128]), scale? f32',
  tolerance: 'exact: the same codes and scales',
  bytes: ({ N = 1, K = 1 }) => N * K * (itemSize('f32') + 1),
  flops: ({ N = 1, K = 1 }) => 2 * N * K,
  *cases() {
    yield* cases()
    yield* ties()
    yield* empty()
  },
  perf,
}
