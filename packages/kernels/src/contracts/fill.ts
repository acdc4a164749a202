import { itemSize, numel } from '@octet-llm/core'
import { DTYPE_CODES, type TensorDType } from '../dtype-codes.js'
import { fill as op } from '../ops/fill.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { product, roundTo, sampled } from './host.js'

const DTYPES = Object.keys(DTYPE_CODES) as TensorDType[]
const FLOAT_VALUES = [0, -0, 1, -3.5, 1e-40, 1 / 3, 447, 1e30, Infinity, -Infinity, NaN]
const INT_VALUES = [0, 1, 2, 127]

/** Value as the dtype holds it: floats by way of float32 (f64 as it is), bool 0 or 1. */
function stored(dtype: TensorDType, value: number): number {
  if (dtype === 'bool') return value === 0 ? 0 : 1
  return dtype === 'f64' ? value : roundTo(dtype, value)
}

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ out: DTYPES, shape: ['0', '1', '17', '5x33', '2x3x8'], placement: PLACEMENTS })) {
    const float = !['i32', 'i64', 'u8', 'bool'].includes(at.out)
    for (const value of float ? FLOAT_VALUES : INT_VALUES) {
      const quick = sampled(index++, 6)
      yield {
        name: `${name} value=${Object.is(value, -0) ? '-0' : value}`,
        quick,
        make() {
          const shape = at.shape.split('x').map(Number)
          return {
            inputs: {},
            outputs: { out: { dtype: at.out, shape, placement: at.placement } },
            call: ({ out }) => void op({ out: out!, value }),
            expected: () => ({ out: { values: new Float64Array(numel(shape)).fill(stored(at.out, value)) } }),
          }
        },
      }
    }
  }
}

export const fill: OpContract = {
  op: 'fill',
  signature: 'out [...] any dtype',
  tolerance: 'exact: one rounding of the value',
  bytes: ({ N = 0 }) => N * itemSize('f32'),
  flops: () => 0,
  cases,
}
