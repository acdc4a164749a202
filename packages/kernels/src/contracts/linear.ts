import { itemSize, type ScaleGranularity } from '@octet-llm/core'
import { linear as op } from '../ops/linear.js'
import type { Tensor } from '../tensor.js'
import { PLACEMENTS, type ContractCase, type Expected, type Input, type InvarianceCase, type OpContract, type PerfCase, type Placement, type Run } from './contract.js'
import { ACTIVATIONS, U, host, rms, sampled, spread, values, type HostTensor, type Random, type Values } from './host.js'
import { rowInvariance } from './row-invariance.js'
import { dequantized, scaleIndex } from './scale-cases.js'

/** dtype, and where scales belong to it their granularity after a slash. */
const XS = ['f32', 'bf16', 'e4m3/tensor', 'e4m3/row', 'e4m3/block1x128', 'e5m2/row'] as const
const WEIGHTS = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'e4m3/tensor', 'e4m3/row', 'e4m3/block1x128', 'e4m3/block128x128', 'e5m2/row'] as const
const MAYBE = ['none', ...ACTIVATIONS] as const

interface Axes {
  readonly x: (typeof XS)[number]
  readonly weight: (typeof WEIGHTS)[number] | 'e5m2/tensor'
  readonly bias: (typeof MAYBE)[number]
  readonly residual: (typeof MAYBE)[number]
  readonly out: 'f32' | 'bf16'
  readonly M: number
  readonly N: number
  readonly K: number
  readonly values: Values
  readonly placement: Placement
  readonly into: 'new' | 'residual'
}

interface Operand {
  readonly data: HostTensor
  readonly scaleInv: HostTensor | null
  readonly granularity: ScaleGranularity | null
  /** The numbers it stands for. */
  readonly real: Float64Array
}

function operand(random: Random, form: string, rows: number, cols: number, kind: Values): Operand {
  const [dtype, granularity] = form.split('/') as [HostTensor['dtype'], ScaleGranularity | undefined]
  const data = values(random, dtype, [rows, cols], kind)
  if (granularity === undefined) return { data, scaleInv: null, granularity: null, real: data.values }
  const scaleInv = host('f32', scaleIndex(granularity, rows, cols).shape, () => 2 ** (6 * random.uniform() - 3))
  return { data, scaleInv, granularity, real: dequantized(data, scaleInv, granularity) }
}

/**
 * x . w^T + bias + residual. Any order of K float32 products and sums is within (K + 2) units of sum |x w|; scales, bias
 * and residual add a unit of what they make each. Levels with bf16 dot products flush subnormals: K 2^-120
 * covers that, and a subnormal against an infinity may give NaN.
 *
 * Tensor cores that multiply FP8 codes add 32 products and the sum so far at a time, each cut to 13 bits after the point of
 * the largest: 33 cuts of 2^-13 of the largest of them, for every 32 along K (Hopper; DeepSeek-V3, arXiv:2412.19437, 3.3.2).
 * Where the residual is the output itself, the vendor's library may round the product before it adds them, as Hugging Face
 * does: half a unit of bf16 more.
 */
function reference(at: Axes, x: Operand, w: Operand, bias: HostTensor | null, residual: HostTensor | null): Expected {
  const { M, N, K } = at
  const out = new Float64Array(M * N)
  const error = new Float64Array(M * N)
  const fp8 = isFp8(x.data) && isFp8(w.data)
  const twice = at.into === 'residual' && residual?.dtype === 'bf16' && at.out === 'bf16'
  const narrow = fp8 || twice ? new Float64Array(M * N) : null
  const open = new Set<number>()
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = 0
      let magnitude = 0
      let [largest, cut] = [0, 0]
      for (let k = 0; k < K; k++) {
        const product = x.real[m * K + k]! * w.real[n * K + k]!
        sum += product
        magnitude += Math.abs(product)
        if (Math.abs(product) === Infinity && Math.min(Math.abs(x.real[m * K + k]!), Math.abs(w.real[n * K + k]!)) < 2 ** -126) open.add(m * N + n)
        if (!fp8) continue
        largest = Math.max(largest, Math.abs(product), Math.abs(sum))
        if (k % 32 === 31 || k === K - 1) {
          cut += 33 * 2 ** -13 * largest
          largest = 0
        }
      }
      const i = m * N + n
      out[i] = sum + (bias?.values[n] ?? 0) + (residual?.values[i] ?? 0)
      const bound = (K + 6) * U * magnitude + 2 * U * (Math.abs(bias?.values[n] ?? 0) + Math.abs(residual?.values[i] ?? 0)) + K * 2 ** -120
      error[i] = Number.isFinite(bound) ? bound : 0
      if (twice) cut += Math.abs(sum + (bias?.values[n] ?? 0)) * 2 ** -8
      if (narrow !== null) narrow[i] = Number.isFinite(cut) ? cut : 0
    }
  }
  return { values: out, error, maybeNaN: (i) => open.has(i), ...(narrow && { narrow: { error: narrow, rms: 2 ** 14 } }) }
}

function isFp8({ dtype }: HostTensor): boolean {
  return dtype === 'e4m3' || dtype === 'e5m2'
}

function argumentsOf(name: string, o: Operand, placement: Placement): Record<string, Input> {
  return { [name]: { host: o.data, placement }, ...(o.scaleInv && { [`${name}Scale`]: { host: o.scaleInv } }) }
}

function tensorOf(t: Parameters<Run['call']>[0], name: string, o: Operand): Tensor | { data: Tensor; scaleInv: Tensor; granularity: ScaleGranularity } {
  const data = t[name]!
  return o.granularity === null ? data : { data, scaleInv: t[`${name}Scale`]!, granularity: o.granularity }
}

function build(random: Random, at: Axes): Run {
  const x = operand(random, at.x, at.M, at.K, at.values)
  const w = operand(random, at.weight, at.N, at.K, at.values)
  const bias = at.bias === 'none' ? null : values(random, at.bias, [at.N])
  const residual = at.residual === 'none' ? null : values(random, at.residual, [at.M, at.N])
  const inPlace = at.into === 'residual' && residual !== null && residual.dtype === at.out
  return {
    inputs: {
      ...argumentsOf('x', x, at.placement),
      ...argumentsOf('weight', w, at.placement),
      ...(bias && { bias: { host: bias } }),
      ...(residual && !inPlace && { residual: { host: residual, placement: at.placement } }),
    },
    outputs: { out: { dtype: at.out, shape: [at.M, at.N], placement: at.placement, ...(inPlace && { initial: residual }) } },
    call(t) {
      const added = inPlace ? t.out! : t.residual
      op({ x: tensorOf(t, 'x', x), weight: tensorOf(t, 'weight', w), ...(t.bias && { bias: t.bias }), ...(added && { residual: added }), out: t.out! })
    },
    expected: () => ({ out: { ...reference(at, x, w, bias, residual), ...rms(at.values, 4 + 2 * Math.sqrt(at.K)) } }),
  }
}

const MOST_WORK = { full: 6e6, quick: 2e5 }

function* cases(): Generator<ContractCase> {
  const axes = {
    x: XS,
    weight: WEIGHTS,
    bias: MAYBE,
    residual: MAYBE,
    out: ACTIVATIONS,
    M: [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64, 131],
    N: [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 48, 65, 129, 300],
    K: [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 256, 257, 384, 1000, 2049],
    values: ['normal', 'wide', 'special', 'zero'] as const,
    placement: PLACEMENTS,
    into: ['new', 'residual'] as const,
  }
  let index = 0
  for (const { name, at } of spread(axes, 6000)) {
    const work = at.M * at.N * at.K
    if (work > MOST_WORK.full) continue
    yield { name, quick: work < MOST_WORK.quick && sampled(index++, 20), make: (random) => build(random, at) }
  }
}

/** Shapes as models have them, whole vectors on aligned rows: where tensor cores and the vendor's library are chosen. */
function* fast(): Generator<ContractCase> {
  const axes = {
    operands: ['bf16*bf16', 'f32*f32', 'e4m3/tensor*e4m3/tensor', 'e4m3/row*e4m3/row', 'e4m3/row*e4m3/tensor', 'e4m3/tensor*e5m2/tensor'],
    bias: ['none', 'bf16', 'f32'] as const,
    residual: ['none', 'bf16', 'f32'] as const,
    out: ACTIVATIONS,
    M: [1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 200],
    N: [8, 48, 64, 65, 127, 128, 129, 300, 520],
    K: [16, 64, 128, 144, 256, 384, 528, 1024, 2048],
    values: ['normal', 'wide', 'special'] as const,
    into: ['new', 'residual'] as const,
  }
  let index = 0
  for (const { name, at } of spread(axes, 1500)) {
    const [x, weight] = at.operands.split('*') as [Axes['x'], Axes['weight']]
    const work = at.M * at.N * at.K
    if (work > 2 * MOST_WORK.full) continue
    yield { name: `fast ${name}`, quick: work < 2 * MOST_WORK.quick && sampled(index++, 4), make: (random) => build(random, { ...at, x, weight, placement: 'plain' }) }
  }
}

const PLAIN = { bias: 'none', residual: 'none', out: 'bf16', values: 'normal', placement: 'plain', into: 'new' } as const

function* perf(): Generator<PerfCase> {
  for (const weight of ['bf16', 'e4m3/row', 'e4m3/block128x128'] as const) {
    for (const [M, N, K] of [[1, 8192, 2048], [1, 2048, 8192], [8, 8192, 2048], [128, 8192, 2048]] as const) {
      const at: Axes = { ...PLAIN, x: 'bf16', weight, M, N, K }
      yield { name: `${weight} M=${M} N=${N} K=${K}`, bytes: N * K * itemSize(weight === 'bf16' ? 'bf16' : 'e4m3') + 2 * M * (N + K), flops: 2 * M * N * K, make: (random) => build(random, at) }
    }
  }
}

export const linear: OpContract = {
  op: 'linear',
  signature: 'x [M, K] f32|bf16|e4m3|e5m2, weight [N, K] f32|bf16|f16|e4m3|e5m2, scales f32, bias? [N], residual? [M, N], out [M, N] f32|bf16',
  tolerance: 'K + 6 units of 2^-24 of sum |x w|, two of bias and residual, and the rounding to out',
  bytes: ({ M = 1, N = 1, K = 1 }) => (N * K + M * (N + K)) * itemSize('f32'),
  flops: ({ M = 1, N = 1, K = 1 }) => 2 * M * N * K,
  *cases() {
    yield* cases()
    yield* fast()
  },
  perf,
  *invariance(): Generator<InvarianceCase> {
    for (const K of [7, 64, 1000]) {
      for (const N of [5, 130]) yield rowInvariance(`N=${N} K=${K}`, K, N, (x, weight, out) => void op({ x, weight, out }), [N, K])
    }
  },
}
