import { itemSize } from '@octet-llm/core'
import type { TensorDType } from '../dtype-codes.js'
import { cast as op } from '../ops/cast.js'
import { PLACEMENTS, type ContractCase, type OpContract } from './contract.js'
import { VALUES, WIDTHS, decode, draw, fromCodes, host, product, roundTo, sampled, type HostTensor, type Random } from './host.js'

const FROM: readonly TensorDType[] = ['f64', 'f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'i64', 'i32', 'u8', 'bool']
const TO: readonly TensorDType[] = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'f64', 'i32']
const INTEGERS: readonly TensorDType[] = ['i64', 'i32', 'u8', 'bool']

/** The definition: by way of float32; to i32 by truncation, saturating, NaN to 0. */
function converted(value: number, to: TensorDType): number {
  const single = Math.fround(value)
  if (to === 'f64') return single
  if (to !== 'i32') return roundTo(to, single)
  if (Number.isNaN(single)) return 0
  return Math.max(-2147483648, Math.min(2147483647, Math.trunc(single))) + 0
}

/** Values next to rounding ties of every narrow format, and beyond every largest value. */
function edges(random: Random): number {
  const mantissa = random.pick([2, 3, 7, 10])
  const tie = (1 + (random.below(2 ** mantissa) + random.pick([0, 0.5, 0.5 - 2 ** -12, 0.5 + 2 ** -12])) / 2 ** mantissa) * 2 ** (random.below(48) - 28)
  return (random.uniform() < 0.5 ? -1 : 1) * tie
}

function inputOf(random: Random, dtype: TensorDType, shape: readonly number[], kind: string): HostTensor {
  if (dtype === 'bool') return host(dtype, shape, () => random.below(2))
  if (dtype === 'u8') return host(dtype, shape, () => random.below(256))
  if (INTEGERS.includes(dtype)) {
    const largest = dtype === 'i32' ? 2 ** 31 : 2 ** 53
    return host(dtype, shape, () => Math.floor((2 * random.uniform() - 1) * (random.uniform() < 0.5 ? 1000 : largest)))
  }
  if (kind === 'edges') return host(dtype, shape, () => edges(random))
  return host(dtype, shape, () => draw(random, kind as (typeof VALUES)[number]))
}

function* shapes(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ x: FROM, out: TO, D: WIDTHS, values: [...VALUES, 'edges'], placement: PLACEMENTS })) {
    if (at.x === 'f64' && at.out === 'f64') continue
    if (INTEGERS.includes(at.x) && at.values !== 'normal') continue
    yield {
      name,
      quick: sampled(index++, 80),
      make(random) {
        const x = inputOf(random, at.x, [3, at.D], at.values)
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: at.out, shape: x.shape, placement: at.placement } },
          call: ({ x, out }) => void op({ x: x!, out: out! }),
          expected: () => ({ out: { values: x.values.map((v) => converted(v, at.out)) } }),
        }
      },
    }
  }
}

/** All codes of the 8- and 16-bit formats, NaN of either sign and every payload included. */
function* codes(): Generator<ContractCase> {
  for (const x of ['e4m3', 'e5m2', 'f16', 'bf16'] as const) {
    for (const out of TO) {
      yield {
        name: `x=${x} out=${out} codes=all`,
        quick: true,
        make() {
          const bits = itemSize(x) * 8
          const all = bits === 8 ? Uint8Array.from({ length: 256 }, (_, i) => i) : new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer)
          const tensor = fromCodes(x, [16, 2 ** bits / 16], all)
          return {
            inputs: { x: { host: tensor } },
            outputs: { out: { dtype: out, shape: tensor.shape } },
            call: ({ x, out }) => void op({ x: x!, out: out! }),
            expected: () => ({ out: { values: decode(all, x).map((v) => converted(v, out)) } }),
          }
        },
      }
    }
  }
}

export const cast: OpContract = {
  op: 'cast',
  signature: 'x [..., D] f64|f32|bf16|f16|e4m3|e5m2|i64|i32|u8|bool, out [..., D] f32|bf16|f16|e4m3|e5m2|f64|i32',
  tolerance: 'exact: one rounding to nearest even by way of float32',
  bytes: ({ N = 1, D = 1 }) => N * D * (itemSize('f32') + itemSize('bf16')),
  flops: () => 0,
  *cases() {
    yield* codes()
    yield* shapes()
  },
}
