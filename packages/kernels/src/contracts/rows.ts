/** What the contracts of embedding, gatherRows and scatterRows share. */
import { itemSize } from '@octet-llm/core'
import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import type { Axes, ContractCase, Run } from './contract.js'
import type { HostTensor, Random } from './host.js'

export const DTYPES = Object.keys(DTYPE_CODES) as TensorDType[]

/** rows[i] of `table`. */
export function gathered(table: HostTensor, rows: readonly number[]): Float64Array {
  const d = table.shape.at(-1)!
  const out = new Float64Array(rows.length * d)
  rows.forEach((row, i) => out.set(table.values.subarray(row * d, (row + 1) * d), i * d))
  return out
}

/** An index on either side of [0, n) makes the next sync reject. */
export function* badIndex(
  axis: string,
  n: number,
  make: (random: Random, index: number) => Omit<Run, 'expected' | 'fails'>,
): Generator<ContractCase> {
  for (const index of [-1, n, 2147483647, -2147483648]) {
    yield { name: `bad-${axis}=${index}`, quick: true, make: (random) => ({ ...make(random, index), expected: () => ({}), fails: 'OP_FAILED' }) }
  }
}

export const rowBytes = ({ R = 1, D = 1 }: Axes): number => 2 * R * D * itemSize('f32') + 4 * R
