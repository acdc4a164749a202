import type { ScaleGranularity } from '@octet-llm/core'
import { compensate as op } from '../ops/compensate.js'
import { PLACEMENTS, type ContractCase, type OpContract, type PerfCase, type Run } from './contract.js'
import { ACTIVATIONS, fromCodes, host, roundTo, sampled, spread, values, type HostTensor, type Random } from './host.js'
import { GRANULARITIES, amaxOf, scaleIndex, scaleOf } from './scale-cases.js'

interface Axes {
  readonly x: 'f32' | 'bf16'
  readonly granularity: ScaleGranularity
  readonly N: number
  readonly K: number
  readonly S: number
  readonly passes: number
  readonly inputs: (typeof INPUTS)[number]
  readonly placement: (typeof PLACEMENTS)[number]
}

/**
 * What the moments are of. `correlated`: inputs whose channels share a few causes, as a model's do; `apart`: channels that
 * have nothing to do with each other; `dead`: some channels without any input; `broken`: some moments are not finite;
 * `codes`: as correlated, but the weight's codes are random, NaN among them, and values are infinite here and there.
 */
const INPUTS = ['correlated', 'apart', 'dead', 'broken', 'codes'] as const

/** Row k: the moments of channel k with its window. */
function momentsOf({ K, S, inputs }: Axes, random: Random): HostTensor {
  const causes = Array.from({ length: 3 }, () => Array.from({ length: K }, () => random.normal()))
  const dead = Array.from({ length: K }, () => inputs === 'dead' && random.below(3) === 0)
  return host('f32', [K, S], (index) => {
    const k = Math.floor(index / S)
    const j = k - (k % S) + (index % S)
    if (j >= K) return NaN
    if (inputs === 'broken' && random.below(K * S) < 2) return random.pick([NaN, Infinity, -1])
    if (dead[k]! || dead[j]!) return 0
    if (inputs === 'apart') return k === j ? 1 + (k % 5) : 0
    return causes.reduce((sum, cause) => sum + cause[k]! * cause[j]!, k === j ? 0.2 : 0)
  })
}

const { fround } = Math
/** Columns whose sums are taken together. */
const COLUMNS = 4

/** The descent of native/cpu/compensate.cc in the same float32 operations. */
function reference(x: HostTensor, moments: HostTensor, codes: Float64Array, scales: HostTensor, { granularity, N, K, S, passes }: Axes): Float64Array {
  const { of } = scaleIndex(granularity, N, K)
  const q = Float64Array.from(codes)
  for (let row = 0; row < N; row++) {
    for (let begin = 0; begin < K; begin += S) {
      const n = Math.min(S, K - begin)
      const scale = Array.from({ length: n }, (_, i) => scales.values[of(row, begin + i)]!)
      const at = (i: number): number => row * K + begin + i
      const e = Array.from({ length: n }, (_, i) => fround(x.values[at(i)]! - fround(q[at(i)]! * scale[i]!)))
      for (let pass = 0; pass < passes; pass++) {
        for (let i = 0; i < n; i++) {
          const h = moments.values.subarray((begin + i) * S, (begin + i) * S + n)
          if (!(h[i]! > 0)) continue
          let sum = 0
          const add = (from: number, to: number): void => {
            for (let j = from; j < to; j++) if (j !== i) sum = fround(sum + fround(h[j]! * e[j]!))
          }
          const first = i - (i % COLUMNS)
          add(0, first)
          add(first + COLUMNS, n)
          add(first, Math.min(first + COLUMNS, n))
          const correction = fround(sum / h[i]!)
          const target = fround(x.values[at(i)]! + correction)
          const next = roundTo('e4m3', fround(target * fround(1 / scale[i]!)))
          const distance = (code: number): number => Math.abs(fround(target - fround(code * scale[i]!)))
          if (correction === 0 || !(distance(next) < distance(q[at(i)]!))) continue
          q[at(i)] = next
          e[i] = fround(x.values[at(i)]! - fround(next * scale[i]!))
        }
      }
    }
  }
  return q
}

function build(random: Random, at: Axes): Run {
  const { granularity, N, K } = at
  const x = values(random, at.x, [N, K], at.inputs === 'codes' ? 'special' : 'normal', 0.05)
  const { count, shape, of } = scaleIndex(granularity, N, K)
  const members: number[][] = Array.from({ length: count }, () => [])
  x.values.forEach((v, i) => members[of(Math.floor(i / K), i % K)]!.push(v))
  const scale = members.map((m) => scaleOf(amaxOf(m), 'e4m3', 0, false))
  const scaleInv = host('f32', shape, (i) => 1 / scale[i]!)
  const data = at.inputs === 'codes' ? fromCodes('e4m3', [N, K], Uint8Array.from({ length: N * K }, () => random.below(256))) : host('e4m3', [N, K], (i) => fround(x.values[i]! * scale[of(Math.floor(i / K), i % K)]!))
  const moments = momentsOf(at, random)
  return {
    inputs: { x: { host: x, placement: at.placement }, moments: { host: moments, placement: at.placement }, scaleInv: { host: scaleInv } },
    outputs: { data: { dtype: 'e4m3', shape: [N, K], initial: data, placement: at.placement } },
    call: (t) => void op({ x: t.x!, moments: t.moments!, quantized: { data: t.data!, scaleInv: t.scaleInv!, granularity }, passes: at.passes }),
    expected: () => ({ data: { values: reference(x, moments, data.values, scaleInv, at) } }),
  }
}

function* cases(): Generator<ContractCase> {
  const axes = {
    x: ACTIVATIONS,
    granularity: GRANULARITIES,
    // Around the rows that one thread has at once, and blocks of rows.
    N: [0, 1, 7, 63, 64, 65, 129, 130],
    // Around the windows, and with blocks that end inside one.
    K: [1, 5, 64, 127, 128, 130, 200],
    S: [1, 16, 64, 100, 128, 200],
    passes: [0, 1, 4],
    inputs: INPUTS,
    placement: PLACEMENTS,
  }
  let index = 0
  for (const { name, at } of spread(axes, 3000)) {
    yield { name, quick: sampled(index++, at.N * at.K > 5000 ? 80 : 20), make: (random) => build(random, at) }
  }
}

function* perf(): Generator<PerfCase> {
  const at: Axes = { x: 'bf16', granularity: 'row', N: 512, K: 1024, S: 1024, passes: 4, inputs: 'correlated', placement: 'plain' }
  const { N, K, S, passes } = at
  yield { name: `bf16 row N=${N} K=${K} S=${S}`, bytes: 3 * N * K + 4 * K * S, flops: 2 * passes * N * K * S, make: (random) => build(random, at) }
}

export const compensate: OpContract = {
  op: 'compensate',
  signature: 'x [N, K] f32|bf16, moments [K, S] f32, data [N, K] e4m3 in place, scaleInv f32',
  tolerance: 'exact: the same float32 operations in the same order',
  bytes: ({ N = 1, K = 1, S = 1 }) => 6 * N * K + 4 * K * S,
  flops: ({ N = 1, K = 1, S = 1 }) => 8 * N * K * S,
  cases,
  perf,
}
