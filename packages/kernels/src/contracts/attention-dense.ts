import { itemSize } from '@octet-llm/core'
import { attentionDense as op } from '../ops/attention-dense.js'
import { Attended, DIMS, HEADS, LENGTHS, MOST_WORK, attendRow, withoutInfinity, workOf } from './attention-cases.js'
import type { ContractCase, Expected, OpContract, Run } from './contract.js'
import { ACTIVATIONS, host, ints, rms, sampled, spread, values, type HostTensor, type Random, type Values } from './host.js'

interface Axes {
  readonly q: 'f32' | 'bf16'
  readonly kv: 'f32' | 'bf16'
  readonly out: 'f32' | 'bf16'
  readonly heads: readonly [number, number]
  readonly D: number
  readonly lengths: readonly (readonly [number, number])[]
  readonly causal: 'none' | 'topLeft' | 'bottomRight'
  readonly left: number
  readonly right: number
  readonly softcap: number
  /** One mask for all sequences, one each, or none. */
  readonly mask: 'none' | 'shared' | 'each'
  readonly values: Values
}

/** Rows between the sequences, that belong to none. */
const GAP = 2

interface Layout {
  readonly startsQ: number[]
  readonly startsKv: number[]
  readonly rowsQ: number
  readonly rowsKv: number
}

/** Sequences in reverse order of memory, with gaps. */
function layout(lengths: Axes['lengths']): Layout {
  const startsQ: number[] = []
  const startsKv: number[] = []
  let [q, kv] = [GAP, 0]
  for (const [qLen, kvLen] of lengths.toReversed()) {
    startsQ.unshift(q)
    startsKv.unshift(kv)
    q += qLen + GAP
    kv += kvLen + GAP
  }
  return { startsQ, startsKv, rowsQ: q, rowsKv: kv }
}

interface Problem {
  readonly at: Axes
  readonly q: HostTensor
  readonly k: HostTensor
  readonly v: HostTensor
  readonly mask: HostTensor | null
  readonly where: Layout
}

/** Whether query i of sequence b sees key j. */
function visible({ at, mask }: Problem, b: number, i: number, j: number): boolean {
  const [qLen, kvLen] = at.lengths[b]!
  const p = at.causal === 'topLeft' ? i : kvLen - qLen + i
  if (at.causal !== 'none' && j > p) return false
  if (at.left >= 0 && j < p - at.left) return false
  if (at.right >= 0 && j > p + at.right) return false
  if (mask === null) return true
  const [shared, rows, cols] = [mask.shape[0] === 1, mask.shape[1]!, mask.shape[2]!]
  return mask.values[((shared ? 0 : b) * rows + i) * cols + j] === 0
}

function reference(p: Problem): Expected {
  const { at, q, k, v, where } = p
  const [heads, kvHeads] = at.heads
  const to = new Attended(q.values.length)
  at.lengths.forEach(([qLen, kvLen], b) => {
    for (let i = 0; i < qLen; i++) {
      const keys = Array.from({ length: kvLen }, (_, j) => j).filter((j) => visible(p, b, i, j))
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / (heads / kvHeads))
        const row = (t: HostTensor) => (j: number) => {
          const from = ((where.startsKv[b]! + j) * kvHeads + kvHead) * at.D
          return t.values.subarray(from, from + at.D)
        }
        const from = ((where.startsQ[b]! + i) * heads + h) * at.D
        attendRow(q.values.subarray(from, from + at.D), keys.map(row(k)), keys.map(row(v)), { d: at.D, scale: 0.3, softcap: at.softcap, kScale: 1, vScale: 1 }, to, from)
      }
    }
  })
  return to.expected()
}

function build(random: Random, at: Axes): Run {
  const [heads, kvHeads] = at.heads
  const where = layout(at.lengths)
  const q = values(random, at.q, [where.rowsQ, heads * at.D], at.values)
  const k = values(random, at.kv, [where.rowsKv, kvHeads * at.D], at.values)
  const v = withoutInfinity(values(random, at.kv, k.shape, at.values))
  const [sq, sk] = [Math.max(...at.lengths.map(([l]) => l)), Math.max(...at.lengths.map(([, l]) => l)) + 1]
  // Row 1 of every sequence is masked as a whole; the rest mostly in runs.
  const batch = at.mask === 'shared' ? 1 : at.lengths.length
  let hidden = 0
  const mask = at.mask === 'none' || sq === 0 ? null : host('u8', [batch, sq, sk], (i) => {
    if (random.uniform() < 0.2) hidden = random.below(2)
    return Math.floor(i / sk) % sq === 1 ? 1 : hidden
  })
  const lens = (side: 0 | 1): HostTensor => ints(at.lengths.map((l) => l[side]))
  return {
    inputs: {
      q: { host: q, placement: 'padded' },
      k: { host: k, placement: 'offset' },
      v: { host: v, placement: 'padded' },
      startsQ: { host: ints(where.startsQ) },
      lensQ: { host: lens(0) },
      startsKv: { host: ints(where.startsKv) },
      lensKv: { host: lens(1) },
      ...(mask && { mask: { host: mask } }),
    },
    outputs: { out: { dtype: at.out, shape: q.shape, placement: 'offset' } },
    call: (t) =>
      void op({
        q: t.q!,
        k: t.k!,
        v: t.v!,
        startsQ: t.startsQ!,
        lensQ: t.lensQ!,
        startsKv: t.startsKv!,
        lensKv: t.lensKv!,
        ...(t.mask && { mask: t.mask }),
        heads,
        kvHeads,
        headDim: at.D,
        scale: 0.3,
        causal: at.causal,
        windowLeft: at.left,
        windowRight: at.right,
        softcap: at.softcap,
        out: t.out!,
      }),
    expected: () => ({ out: { ...reference({ at, q, k, v, mask, where }), ...rms(at.values, 64) } }),
  }
}

function* cases(): Generator<ContractCase> {
  const axes = {
    q: ACTIVATIONS,
    kv: ACTIVATIONS,
    out: ACTIVATIONS,
    heads: Object.keys(HEADS),
    D: DIMS,
    lengths: Object.keys(LENGTHS),
    causal: ['none', 'topLeft', 'bottomRight'] as const,
    left: [-1, 0, 3, 150],
    right: [-1, 0, 2],
    softcap: [0, 2],
    mask: ['none', 'shared', 'each'] as const,
    values: ['normal', 'special'] as const,
  }
  let index = 0
  for (const { name, at } of spread(axes, 1600)) {
    const heads = HEADS[at.heads]!
    const lengths = LENGTHS[at.lengths]!
    const work = workOf(lengths, heads[0], at.D)
    if (work > MOST_WORK.full) continue
    yield { name, quick: work < MOST_WORK.quick && sampled(index++, 10), make: (random) => build(random, { ...at, heads, lengths }) }
  }
  yield* broken()
}

/** Slices outside q, k or the mask. */
function* broken(): Generator<ContractCase> {
  const plain: Axes = { q: 'f32', kv: 'f32', out: 'f32', heads: [2, 1], D: 8, lengths: [[2, 5], [2, 8]], causal: 'none', left: -1, right: -1, softcap: 0, mask: 'each', values: 'normal' }
  const faults: Readonly<Record<string, (run: Run) => void>> = {
    'q-past-end': (run) => (run.inputs['startsQ']!.host.values[0] = 1000),
    'q-negative': (run) => (run.inputs['startsQ']!.host.values[0] = -1),
    'kv-past-end': (run) => (run.inputs['startsKv']!.host.values[0] = 1000),
    'kv-negative': (run) => (run.inputs['startsKv']!.host.values[1] = -1),
    'length-negative': (run) => (run.inputs['lensQ']!.host.values[1] = -2),
    'mask-too-narrow': (run) => (run.inputs['lensKv']!.host.values[0] = 10),
    'mask-too-short': (run) => (run.inputs['lensQ']!.host.values[0] = 3),
  }
  for (const [name, spoil] of Object.entries(faults)) {
    yield {
      name: `bad=${name}`,
      quick: true,
      make(random) {
        const run = build(random, plain)
        spoil(run)
        return { ...run, fails: 'OP_FAILED' }
      },
    }
  }
}

export const attentionDense: OpContract = {
  op: 'attentionDense',
  signature: 'q [Tq, H*D], k, v [Tk, Hkv*D] f32|bf16, startsQ, lensQ, startsKv, lensKv [B] i32, mask? [B or 1, Sq, Sk] u8, out [Tq, H*D] f32|bf16',
  tolerance: "attention's",
  bytes: ({ T = 1, S = 1, H = 1, Hkv = 1, D = 1 }) => 2 * (S * Hkv + T * H) * D * itemSize('f32'),
  flops: ({ T = 1, S = 1, H = 1, D = 1 }) => 4 * T * S * H * D,
  cases,
}
