import { advanceDecode as op } from '../ops/advance-decode.js'
import type { Axes, ContractCase, OpContract, Run } from './contract.js'
import { ints, type Random } from './host.js'

const STATE = ['remaining', 'tokens', 'kvLens', 'starts', 'positions'] as const

/** The rule, row by row, in plain numbers. */
function advanced(rows: Rows, group: number, pad: number): Rows & { out: number[] } {
  const next = { ...rows, ...Object.fromEntries(STATE.map((key) => [key, [...rows[key]]])), out: rows.chosen.map(() => UNTOUCHED) } as Rows & { out: number[] }
  rows.chosen.forEach((token, n) => {
    if (rows.groups[n] !== group) return
    if (rows.remaining[n]! <= 0) {
      next.out[n] = -1
      return
    }
    next.out[n] = token
    const left = rows.eos[n]!.some((id) => id >= 0 && id === token) ? 0 : rows.remaining[n]! - 1
    next.remaining[n] = left
    next.tokens[n] = left > 0 ? token : pad
    next.kvLens[n] = left > 0 ? rows.kvLens[n]! + 1 : 0
    next.starts[n] = left > 0 ? rows.starts[n]! + 1 : 0
    next.positions[n] = left > 0 ? rows.positions[n]! + 1 : -1
  })
  return next
}

interface Rows {
  readonly chosen: number[]
  readonly groups: number[]
  readonly eos: number[][]
  readonly remaining: number[]
  readonly tokens: number[]
  readonly kvLens: number[]
  readonly starts: number[]
  readonly positions: number[]
}

const UNTOUCHED = 77

function randomRows(random: Random, n: number, ends: number): Rows {
  const whole = (n: number) => random.below(n)
  const rows = Array.from({ length: n }, () => {
    const length = whole(3) === 0 ? 0 : 1 + whole(1000)
    return {
      chosen: whole(6), group: whole(2), eos: Array.from({ length: ends }, () => whole(7) - 1), remaining: whole(4) - (whole(9) === 0 ? 1 : 0),
      tokens: whole(50), kvLens: length + 1, starts: length, positions: length,
    }
  })
  return {
    chosen: rows.map((r) => r.chosen), groups: rows.map((r) => r.group), eos: rows.map((r) => r.eos), remaining: rows.map((r) => r.remaining),
    tokens: rows.map((r) => r.tokens), kvLens: rows.map((r) => r.kvLens), starts: rows.map((r) => r.starts), positions: rows.map((r) => r.positions),
  }
}

function* cases(): Generator<ContractCase> {
  for (const N of [0, 1, 2, 31, 128, 129, 300]) {
    for (const E of [1, 3]) {
      for (const group of [0, 1]) {
        yield {
          name: `N=${N} E=${E} group=${group}`,
          quick: true,
          make(random): Run {
            const rows = randomRows(random, N, E)
            const want = advanced(rows, group, 5)
            const outputs = Object.fromEntries([...STATE.map((key) => [key, rows[key]] as const), ['out', rows.chosen.map(() => UNTOUCHED)] as const]
              .map(([key, values]) => [key, { dtype: 'i32' as const, shape: [N], initial: ints(values) }]))
            return {
              inputs: {
                chosen: { host: ints(rows.chosen) },
                groups: { host: ints(rows.groups) },
                eos: { host: ints(rows.eos.flat(), [N, E]), placement: 'padded' },
              },
              outputs,
              call: (t) => void op({
                chosen: t.chosen!, groups: t.groups!, eos: t.eos!, remaining: t.remaining!, tokens: t.tokens!, kvLens: t.kvLens!, starts: t.starts!,
                positions: t.positions!, out: t.out!, group, pad: 5,
              }),
              expected: () => Object.fromEntries([...STATE, 'out' as const].map((key) => [key, { values: Float64Array.from(want[key]) }])),
            }
          },
        }
      }
    }
  }
}

const words = ({ N = 1, E = 1 }: Axes): number => N * (14 + E)

export const advanceDecode: OpContract = {
  op: 'advanceDecode',
  signature: 'chosen, groups [N] i32, eos [N, E] i32, remaining, tokens, kvLens, starts, positions [N] i32 in place, out [N] i32',
  tolerance: 'exact: whole numbers',
  bytes: (axes) => 4 * words(axes),
  flops: words,
  cases,
}
