import { itemSize } from '@octet-llm/core'
import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import { copy as op } from '../ops/copy.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { WIDTHS, fromCodes, product, sampled, type HostTensor, type Random } from './host.js'

const DTYPES = Object.keys(DTYPE_CODES) as TensorDType[]

/** Random bytes: a copy must keep NaN codes too. Bools hold 0 and 1 only. */
export function randomCodes(random: Random, dtype: TensorDType, shape: readonly number[]): HostTensor {
  const count = shape.reduce((n, d) => n * d, 1)
  const bytes = Uint8Array.from({ length: count * itemSize(dtype) }, () => random.below(dtype === 'bool' ? 2 : 256))
  if (dtype === 'f32' || dtype === 'f64' || dtype === 'i64') {
    // JavaScript quietens signalling NaN, and holds integers to 2^53: keep the top byte small.
    for (let i = itemSize(dtype) - 1; i < bytes.length; i += itemSize(dtype)) bytes[i]! &= dtype === 'i64' ? 0 : 0x3f
    if (dtype === 'i64') for (let i = 6; i < bytes.length; i += 8) bytes[i]! &= 0x0f
  }
  return fromCodes(dtype, shape, bytes)
}

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: DTYPES, N: [1, 3], D: [0, ...WIDTHS, 16385], from: PLACEMENTS, to: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, 60),
      make(random) {
        const x = randomCodes(random, at.x, [at.N, at.D])
        return {
          inputs: { x: { host: x, placement: at.from } },
          outputs: { out: { dtype: at.x, shape: x.shape, placement: at.to } },
          call: ({ x, out }) => void op({ x: x!, out: out! }),
          expected: () => ({ out: { values: x.values } }),
        }
      },
    }
  }
}

export const copy: OpContract = {
  op: 'copy',
  signature: 'x [..., D] any dtype, out like x',
  tolerance: 'exact',
  bytes: ({ N = 1, D = 1 }) => 2 * N * D * itemSize('f32'),
  flops: () => 0,
  cases,
}
