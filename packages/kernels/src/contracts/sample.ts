import { itemSize, philoxUniform } from '@octet-llm/core'
import { sample as op } from '../ops/sample.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { ACTIVATIONS, draw, host, ints, sampled, spread, values, type HostTensor, type Random } from './host.js'

interface Settings {
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly minP: number
}

/** Relative slack of a float64 sum of float32 exponentials: which of two tokens stands at an edge is open within it. */
const SLACK = 2e-6

/**
 * The tokens that a draw may give: temperature, top-k (ties at the k-th kept), top-p (ascending by logit, stable: among
 * equals the larger id counts as more likely), min-p, then the first token by id whose running sum passes u. Run with the
 * mass and u moved by the slack either way, because both are compared with sums of rounded exponentials.
 */
function possible(logits: Float64Array, s: Settings, u: number): Set<number> {
  const scores = Array.from(logits, (v) => Math.fround(v / Math.fround(s.temperature)) + 0)
  const top = scores.reduce((m, v) => (v > m ? v : m), -Infinity)
  const legal = scores.map((_, i) => i).filter((i) => !Number.isNaN(scores[i]!))
  if (legal.length === 0) return new Set([0])
  if (top === -Infinity) return new Set([legal[0]!])
  const weight = (i: number): number => (scores[i] === top ? 1 : Math.exp(scores[i]! - top))
  let kept = legal
  if (s.topK > 0 && s.topK < kept.length) {
    const kth = kept.map((i) => scores[i]!).sort((a, b) => b - a)[s.topK - 1]!
    kept = kept.filter((i) => scores[i]! >= kth)
  }
  const found = new Set<number>()
  for (const pSlack of s.topP < 1 ? [-SLACK, 0, SLACK] : [0]) {
    const nucleus = s.topP < 1 ? mostLikely(kept, scores, weight, s.topP * (1 + pSlack)) : kept
    for (const minSlack of [-SLACK, SLACK]) {
      const last = nucleus.filter((i) => weight(i) > 0 && weight(i) >= s.minP * (1 + minSlack))
      const total = last.reduce((sum, i) => sum + weight(i), 0)
      for (const uSlack of [-SLACK, 0, SLACK]) found.add(passes(last, weight, (u + uSlack) * total))
    }
  }
  return found
}

/** Ids, ascending, of the most likely tokens: each is kept while those before it hold less than p of the mass. */
function mostLikely(kept: readonly number[], scores: readonly number[], weight: (i: number) => number, p: number): number[] {
  const total = kept.reduce((sum, i) => sum + weight(i), 0)
  const order = [...kept].sort((a, b) => scores[b]! - scores[a]! || b - a)
  const nucleus: number[] = []
  let before = 0
  for (const i of order) {
    if (nucleus.length > 0 && before >= p * total) break
    nucleus.push(i)
    before += weight(i)
  }
  return nucleus.sort((a, b) => a - b)
}

function passes(ids: readonly number[], weight: (i: number) => number, target: number): number {
  let sum = 0
  for (const i of ids) {
    sum += weight(i)
    if (sum > target) return i
  }
  return ids.at(-1)!
}

const KINDS = ['normal', 'sharp', 'ties', 'special', 'nan', 'minus-infinity'] as const

function logitsOf(random: Random, dtype: 'f32' | 'bf16', shape: readonly number[], kind: (typeof KINDS)[number]): HostTensor {
  switch (kind) {
    case 'sharp':
      return values(random, dtype, shape, 'normal', 12)
    case 'ties':
      return host(dtype, shape, () => random.below(4))
    case 'special': // one infinity too many would leave nothing to draw from
      return host(dtype, shape, () => {
        const v = draw(random, 'special')
        return v === Infinity ? 3 : v
      })
    case 'nan':
      return host(dtype, shape, () => NaN)
    case 'minus-infinity':
      return host(dtype, shape, (i) => (i % 5 === 0 ? NaN : -Infinity))
    default:
      return values(random, dtype, shape)
  }
}

function* cases(): Generator<ContractCase> {
  const axes = {
    logits: ACTIVATIONS,
    N: [0, 1, 6],
    V: [1, 2, 5, 17, 64, 1000, 5003],
    temperature: [1, 0.3, 2.5],
    topK: [0, 1, 2, 50, 1000000],
    topP: [1, 0.9, 0.5, 0.05, 0],
    minP: [0, 0.05, 0.5, 1],
    values: KINDS,
    seed: [0, 1, 2 ** 40 + 12345],
    placement: PLACEMENTS,
  }
  let index = 0
  for (const { name, at } of spread(axes, 4000)) {
    yield {
      name,
      quick: sampled(index++, at.V > 100 ? 60 : 24),
      make(random) {
        const logits = logitsOf(random, at.logits, [at.N, at.V], at.values)
        const sequences = Array.from({ length: at.N }, () => random.below(1000))
        const positions = Array.from({ length: at.N }, () => random.below(100000))
        return {
          inputs: { logits: { host: logits, placement: at.placement }, sequenceIds: { host: ints(sequences) }, positions: { host: ints(positions) } },
          outputs: { out: { dtype: 'i32', shape: [at.N] } },
          call: (t) =>
            void op({ logits: t.logits!, sequenceIds: t.sequenceIds!, positions: t.positions!, seed: at.seed, temperature: at.temperature, topK: at.topK, topP: at.topP, minP: at.minP, out: t.out! }),
          expected() {
            const sets = sequences.map((sequence, n) => possible(logits.values.subarray(n * at.V, (n + 1) * at.V), at, philoxUniform(at.seed, sequence, positions[n]!)))
            return { out: { values: Float64Array.from(sets, (set) => [...set][0]!), accepts: (i, value) => sets[i]!.has(value) } }
          },
        }
      },
    }
  }
}

export const sample: OpContract = {
  op: 'sample',
  signature: 'logits [N, V] f32|bf16, sequenceIds, positions [N] i32, out [N] i32; seed, temperature, topK, topP, minP',
  tolerance: 'exact, but for draws within 2e-6 of an edge between two tokens',
  bytes: ({ N = 1, V = 1 }) => N * V * itemSize('f32') + 12 * N,
  flops: ({ N = 1, V = 1 }) => 40 * N * V,
  cases,
  *perf() {
    const V = 128256
    for (const [label, settings] of Object.entries({ all: {}, 'topK=50': { topK: 50 }, 'topP=0.9': { topP: 0.9 } })) {
      yield {
        name: `f32 N=1 V=${V} ${label}`,
        bytes: 4 * V,
        flops: 40 * V,
        make: (random) => ({
          inputs: { logits: { host: values(random, 'f32', [1, V], 'normal', 4) }, sequenceIds: { host: ints([0]) }, positions: { host: ints([7]) } },
          outputs: { out: { dtype: 'i32', shape: [1] } },
          call: (t) => void op({ logits: t.logits!, sequenceIds: t.sequenceIds!, positions: t.positions!, seed: 1, ...settings, out: t.out! }),
          expected: () => ({}),
        }),
      }
    }
  },
}
