import { updateScale as op } from '../ops/update-scale.js'
import type { ContractCase, OpContract } from './contract.js'
import { host, product, type Random } from './host.js'

const LARGEST = 3.4028234663852886e38

/** Amaxes of a history, oldest first and the current one apart, as a plain list would be kept. */
function step(past: readonly number[], current: number, scale: number, scaledMax: number, mostRecent: boolean): { past: number[]; current: number; scale: number } {
  const bounded = (value: number): number => (Math.abs(value) === Infinity ? LARGEST : value)
  if (current === 0) return { past: [...past], current, scale: bounded(scale) }
  const seen = [...past, current].filter((value) => !Number.isNaN(value))
  const amax = mostRecent ? current : Math.max(0, ...seen)
  const usable = amax > 0 && amax < Infinity
  return { past: past.length === 0 ? [] : [...past.slice(1), current], current: 0, scale: bounded(usable ? Math.fround(scaledMax / amax) : scale) }
}

/** Magnitudes of every size; zeros, infinities and NaN are common. */
function magnitude(random: Random): number {
  const kind = random.below(8)
  if (kind === 0) return 0
  if (kind === 1) return NaN
  if (kind === 2) return Infinity
  if (kind === 3) return 2 ** -149
  return Math.fround((0.5 + random.below(1000) / 1000) * 2 ** (random.below(60) - 30))
}

function* cases(): Generator<ContractCase> {
  for (const { name, at } of product({ N: [0, 1, 3, 70], L: [1, 2, 3, 16, 255, 256, 257, 513, 1024], margin: [0, 3, -2], algorithm: ['max', 'most_recent'] as const, fp8Max: [448, 57344], placement: ['plain', 'padded'] as const })) {
    yield {
      name,
      quick: at.margin === 0 || at.L < 4,
      make(random) {
        const rows = Array.from({ length: at.N }, () => ({ past: Array.from({ length: at.L - 1 }, () => magnitude(random)), current: magnitude(random), scale: [1, 0.25, Infinity, NaN, 2 ** 100][random.below(5)]! }))
        const scaledMax = Math.fround(at.fp8Max * 2 ** -at.margin)
        const want = rows.map(({ past, current, scale }) => step(past, current, scale, scaledMax, at.algorithm === 'most_recent'))
        const flat = (states: readonly { past: readonly number[]; current: number }[]): number[] => states.flatMap(({ past, current }) => [current, ...past])
        return {
          inputs: {},
          outputs: {
            history: { dtype: 'f32', shape: [at.N, at.L], initial: host('f32', [at.N, at.L], flat(rows)), placement: at.placement },
            scale: { dtype: 'f32', shape: [at.N], initial: host('f32', [at.N], rows.map(({ scale }) => scale)) },
          },
          call: ({ history, scale }) => op({ amaxHistory: history!, scale: scale!, fp8Max: at.fp8Max, margin: at.margin, algorithm: at.algorithm }),
          expected: () => ({ history: { values: Float64Array.from(flat(want)) }, scale: { values: Float64Array.from(want, ({ scale }) => scale) } }),
        }
      },
    }
  }
}

export const updateScale: OpContract = {
  op: 'updateScale',
  signature: 'amaxHistory [N, L] f32 in place, scale [N] f32 in place',
  tolerance: 'exact: one IEEE division',
  bytes: ({ N = 1, L = 1 }) => N * (2 * L + 2) * 4,
  flops: ({ N = 1, L = 1 }) => N * L,
  cases,
}
