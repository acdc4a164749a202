import { itemSize } from '@octet-llm/core'
import { Tensor } from '../tensor.js'
import { rope as op } from '../ops/rope.js'
import { PLACEMENTS, type ContractCase, type InvarianceCase, type OpContract, type Run } from './contract.js'
import { ACTIVATIONS, VALUES, encode, ints, product, rms, sampled, values } from './host.js'
import { EPS, HEAD_DIMS, NORMS, angles, rotateRow } from './rope-cases.js'
import { rowInvariance } from './row-invariance.js'
import { badIndex } from './rows.js'

const P = 19

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { x: ACTIVATIONS, out: ACTIVATIONS, T: [0, 1, 5], H: [1, 3], D: HEAD_DIMS, norm: NORMS, interleaved: [false, true], values: VALUES, placement: PLACEMENTS }
  for (const { name, at } of product(axes)) {
    yield {
      name,
      quick: sampled(index++, 150),
      make(random): Run {
        const x = values(random, at.x, [at.T, at.H * at.D], at.values)
        const positions = Array.from({ length: at.T }, () => random.below(P))
        const { cos, sin } = angles(P, at.D)
        const weight = at.norm === 'none' ? null : values(random, 'bf16', [at.D])
        return {
          inputs: {
            x: { host: x, placement: at.placement },
            positions: { host: ints(positions) },
            cos: { host: cos, placement: at.placement },
            sin: { host: sin },
            ...(weight && { weight: { host: weight } }),
          },
          outputs: { out: { dtype: at.out, shape: x.shape, placement: at.placement } },
          call: (t) =>
            void op({
              x: t.x!,
              heads: at.H,
              headDim: at.D,
              positions: t.positions!,
              cos: t.cos!,
              sin: t.sin!,
              interleaved: at.interleaved,
              eps: EPS,
              ...(t.weight && { normWeight: t.weight, zeroCenteredGamma: at.norm === 'gemma', castBeforeWeight: at.norm === 'llama' }),
              out: t.out!,
            }),
          expected() {
            const out = new Float64Array(x.values.length)
            const error = new Float64Array(x.values.length)
            for (let i = 0; i < at.T * at.H; i++) {
              const row = rotateRow(x.values.subarray(i * at.D, (i + 1) * at.D), positions[Math.floor(i / at.H)]!, {
                norm: at.norm,
                weight: weight?.values ?? null,
                dtype: at.x,
                cos,
                sin,
                interleaved: at.interleaved,
              })
              out.set(row.values, i * at.D)
              error.set(row.error, i * at.D)
            }
            return { out: { values: out, error, ...(at.norm === 'llama' ? {} : rms(at.values, 4)) } }
          },
        }
      },
    }
  }
  yield* badIndex('position', P, (random, position) => ({
    inputs: { x: { host: values(random, 'f32', [2, 8]) }, positions: { host: ints([1, position]) }, cos: { host: angles(P, 8).cos }, sin: { host: angles(P, 8).sin } },
    outputs: { out: { dtype: 'f32', shape: [2, 8] } },
    call: (t) => void op({ x: t.x!, heads: 1, headDim: 8, positions: t.positions!, cos: t.cos!, sin: t.sin!, out: t.out! }),
  }))
}

export const rope: OpContract = {
  op: 'rope',
  signature: 'x [T, H*D], positions [T] i32, cos, sin [P, D/2] f32, out [T, H*D], normWeight? [D] f32|bf16; interleaved',
  tolerance: "2 units of 2^-24 of |a c| + |b s|, the norm's error before it, and the rounding to out",
  bytes: ({ T = 1, H = 1, D = 1 }) => 2 * T * H * D * itemSize('f32') + T * (D * 4 + 4),
  flops: ({ T = 1, H = 1, D = 1 }) => 3 * T * H * D,
  cases,
  *invariance(): Generator<InvarianceCase> {
    for (const D of [6, 80, 128]) {
      for (const interleaved of [false, true]) {
        yield rowInvariance(`D=${D} interleaved=${interleaved}`, 3 * D, 3 * D, (x, _fixed, out) => {
          const tables = angles(4, D)
          const on = (bytes: Uint8Array, shape: readonly number[], dtype: 'f32' | 'i32'): Tensor => Tensor.fromBytes(bytes, { shape, dtype, device: x.device })
          const cos = on(encode(tables.cos), tables.cos.shape, 'f32')
          const sin = on(encode(tables.sin), tables.sin.shape, 'f32')
          const rows = x.shape[0]!
          const positions = on(encode(ints(Array.from({ length: rows }, () => 3))), [rows], 'i32')
          op({ x, heads: 3, headDim: D, positions, cos, sin, interleaved, out })
          for (const t of [cos, sin, positions]) t.dispose()
        })
      }
    }
  },
}
