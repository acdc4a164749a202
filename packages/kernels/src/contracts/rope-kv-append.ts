import { itemSize } from '@octet-llm/core'
import { ropeKvAppend as op } from '../ops/rope-kv-append.js'
import type { ContractCase, Expected, OpContract, PerfCase, Run } from './contract.js'
import { ACTIVATIONS, SUM_VALUES, U, host, ints, roundTo, sampled, spread, values, type HostTensor, type Random } from './host.js'
import { cacheArguments, places, store } from './kv-append.js'
import { EPS, NORMS, angles, cacheOffset, paged, rotateRow, type HostCache, type RotateOptions } from './rope-cases.js'

const P = 40
const BATCH = 3
const TOKENS = 12

interface Problem {
  readonly qkv: HostTensor
  readonly heads: number
  readonly cache: HostCache
  readonly angleOf: readonly number[]
  readonly rowOf: readonly number[]
  readonly cacheOf: readonly number[]
  readonly rotations: readonly [q: RotateOptions, k: RotateOptions]
  readonly kScale: HostTensor | null
  readonly vScale: HostTensor | null
}

/** Rotated queries, and the caches after it. K carries the rotation's error, through its scale, before its rounding. */
function reference(p: Problem): Record<string, Expected> {
  const { heads, cache } = p
  const { kvHeads, d } = cache
  const tokens = p.angleOf.length
  const width = (heads + 2 * kvHeads) * d
  const q = new Float64Array(tokens * heads * d)
  const qError = new Float64Array(q.length)
  const k = cache.k.values.slice()
  const kError = new Float64Array(k.length)
  const v = cache.v.values.slice()
  for (let t = 0; t < tokens; t++) {
    const token = p.qkv.values.subarray(t * width, (t + 1) * width)
    for (let h = 0; h < heads; h++) {
      const row = rotateRow(token.subarray(h * d, (h + 1) * d), p.angleOf[t]!, p.rotations[0])
      q.set(row.values, (t * heads + h) * d)
      qError.set(row.error, (t * heads + h) * d)
    }
    const place = p.cacheOf[t]!
    if (place < 0) continue
    for (let h = 0; h < kvHeads; h++) {
      const row = rotateRow(token.subarray((heads + h) * d, (heads + h + 1) * d), p.angleOf[t]!, p.rotations[1])
      const factor = p.kScale === null ? 1 : Math.fround(1 / p.kScale.values[h]!)
      const to = cacheOffset(cache, p.rowOf[t]!, place, h)
      for (let i = 0; i < d; i++) [k[to + i], kError[to + i]] = saturated(row.values[i]! * factor, row.error[i]! * factor + Math.abs(row.values[i]! * factor) * U, cache.k.dtype)
    }
    store(v, token.subarray((heads + kvHeads) * d), cache, p.rowOf[t]!, place, p.vScale)
  }
  return { qOut: { values: q, error: qError }, kCache: { values: k, error: kError }, vCache: { values: v } }
}

/** Past the largest e4m3 the code is the largest, whatever the error. */
function saturated(value: number, error: number, dtype: HostTensor['dtype']): [number, number] {
  return dtype === 'e4m3' && Math.abs(value) > 448 ? [roundTo(dtype, value), Number.isFinite(value) ? Math.max(0, error - (Math.abs(value) - 448)) : 0] : [value, Number.isFinite(error) ? error : 0]
}

interface Axes {
  readonly x: 'f32' | 'bf16'
  readonly cache: 'f32' | 'bf16' | 'e4m3'
  readonly T: number
  readonly heads: readonly [number, number]
  readonly D: number
  readonly pageSize: number
  readonly norm: (typeof NORMS)[number]
  readonly interleaved: boolean
  readonly scaled: boolean
  /** Default: qkv and qOut are slices with gaps. `plain`: as models have them, what the fast kernels ask for. */
  readonly placement?: 'plain'
}

function build(random: Random, at: Axes, qkv: HostTensor): Run {
  const [heads, kvHeads] = at.heads
  const cache = paged(random, { dtype: at.cache, kvHeads, d: at.D, pageSize: at.pageSize, tokens: TOKENS, batch: BATCH })
  const { rowOf, positions: cacheOf } = places(random, at.T, BATCH, TOKENS)
  const angleOf = cacheOf.map(() => random.below(P))
  const { cos, sin } = angles(P, at.D)
  const weights = at.norm === 'none' ? [null, null] : [values(random, 'bf16', [at.D]), values(random, 'f32', [at.D])]
  const scale = (): HostTensor | null => (at.scaled ? host('f32', [kvHeads], () => 0.05 + random.uniform()) : null)
  const [kScale, vScale] = [scale(), scale()]
  const rotations = weights.map((w) => ({ norm: at.norm, weight: w?.values ?? null, dtype: at.x, cos, sin, interleaved: at.interleaved })) as [RotateOptions, RotateOptions]
  return {
    inputs: {
      qkv: { host: qkv, placement: at.placement ?? 'padded' },
      positions: { host: ints(angleOf) },
      cos: { host: cos },
      sin: { host: sin },
      pageTable: { host: cache.pageTable, placement: 'offset' },
      rowOf: { host: ints(rowOf) },
      cachePositions: { host: ints(cacheOf) },
      ...(weights[0] && weights[1] && { qNorm: { host: weights[0] }, kNorm: { host: weights[1] } }),
      ...(kScale && vScale && { kScaleInv: { host: kScale }, vScaleInv: { host: vScale } }),
    },
    outputs: {
      qOut: { dtype: at.x, shape: [at.T, heads * at.D], placement: at.placement ?? 'offset' },
      kCache: { dtype: at.cache, shape: cache.k.shape, initial: cache.k },
      vCache: { dtype: at.cache, shape: cache.v.shape, initial: cache.v },
    },
    call: (t) =>
      void op({
        qkv: t.qkv!,
        ...cacheArguments(t),
        positions: t.positions!,
        cos: t.cos!,
        sin: t.sin!,
        rowOf: t.rowOf!,
        cachePositions: t.cachePositions!,
        heads,
        kvHeads,
        headDim: at.D,
        interleaved: at.interleaved,
        eps: EPS,
        ...(t.qNorm && t.kNorm && { qNorm: t.qNorm, kNorm: t.kNorm, zeroCenteredGamma: at.norm === 'gemma', castBeforeWeight: at.norm === 'llama' }),
        qOut: t.qOut!,
      }),
    expected: () => reference({ qkv, heads, cache, angleOf, rowOf, cacheOf, rotations, kScale, vScale }),
  }
}

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { x: ACTIVATIONS, cache: ['f32', 'bf16', 'e4m3'] as const, T: [0, 1, 9], heads: ['2/2', '6/2', '3/1'], D: [2, 6, 32, 34, 80, 128, 256], pageSize: [1, 4, 64], norm: NORMS, interleaved: [false, true], scaled: [false, true], values: SUM_VALUES }
  for (const { name, at } of spread(axes, 6000)) {
    if (at.pageSize === 64 && at.D > 80) continue
    const heads = at.heads.split('/').map(Number) as [number, number]
    yield {
      name,
      quick: sampled(index++, 40),
      make: (random) => build(random, { ...at, heads }, values(random, at.x, [at.T, (heads[0] + 2 * heads[1]) * at.D], at.values)),
    }
  }
  yield* fast()
  yield* broken()
}

/** Shapes as models have them: bf16, or over an FP8 cache. */
function* fast(): Generator<ContractCase> {
  let index = 0
  const axes = { cache: ['bf16', 'e4m3'] as const, T: [0, 1, 9], heads: ['2/2', '6/2', '3/1'], D: [16, 48, 64, 128, 256], pageSize: [1, 4, 64], norm: ['none', 'plain'] as const, interleaved: [false, true], scaled: [false, true], values: SUM_VALUES }
  for (const { name, at } of spread(axes, 900)) {
    if (at.pageSize === 64 && at.D > 80) continue
    const heads = at.heads.split('/').map(Number) as [number, number]
    yield {
      name: `fast ${name}`,
      quick: sampled(index++, 20),
      make: (random) => build(random, { ...at, x: 'bf16', heads, placement: 'plain' }, values(random, 'bf16', [at.T, (heads[0] + 2 * heads[1]) * at.D], at.values)),
    }
  }
}

const BROKEN: Axes = { x: 'bf16', cache: 'bf16', T: 9, heads: [2, 1], D: 16, pageSize: 4, norm: 'none', interleaved: false, scaled: false, placement: 'plain' }

/** Positions and places that lead outside their tensors. */
function* broken(): Generator<ContractCase> {
  const faults: Readonly<Record<string, (inputs: Run['inputs']) => void>> = {
    position: (inputs) => (inputs['positions']!.host.values[3] = P),
    'position-negative': (inputs) => (inputs['positions']!.host.values[3] = -1),
    place: (inputs) => (inputs['cachePositions']!.host.values[3] = 400),
    row: (inputs) => (inputs['rowOf']!.host.values.fill(BATCH)),
    page: (inputs) => (inputs['pageTable']!.host.values.fill(1000)),
  }
  for (const [name, spoil] of Object.entries(faults)) {
    for (const x of ACTIVATIONS) {
      yield {
        name: `x=${x} bad=${name}`,
        quick: true,
        make(random) {
          const run = build(random, { ...BROKEN, x }, values(random, x, [BROKEN.T, 4 * BROKEN.D]))
          spoil(run.inputs)
          return { ...run, fails: 'OP_FAILED' }
        },
      }
    }
  }
}

function* perf(): Generator<PerfCase> {
  for (const [T, H, Hkv, D] of [[9, 32, 8, 64], [9, 16, 16, 256]] as const) {
    const width = (H + 2 * Hkv) * D
    yield {
      name: `bf16 T=${T} H=${H} Hkv=${Hkv} D=${D}`,
      bytes: 4 * T * width,
      flops: 3 * T * (H + Hkv) * D,
      make: (random) => build(random, { x: 'bf16', cache: 'bf16', T, heads: [H, Hkv], D, pageSize: 64, norm: 'none', interleaved: false, scaled: false }, values(random, 'bf16', [T, width])),
    }
  }
}

export const ropeKvAppend: OpContract = {
  op: 'ropeKvAppend',
  signature: 'qkv [T, (H+2Hkv)*D] f32|bf16, positions [T] i32, cos, sin [P, D/2] f32, qOut [T, H*D], kCache, vCache [pages, Hkv, pageSize, D] f32|bf16|e4m3, pageTable [B, P], rowOf, cachePositions [T] i32, qNorm?, kNorm? [D], kScaleInv?, vScaleInv? [Hkv] f32',
  tolerance: "rope's for Q and K, exact for V",
  bytes: ({ T = 1, H = 1, Hkv = 1, D = 1 }) => 2 * T * (H + 2 * Hkv) * D * itemSize('f32') + T * (D * 4 + 12),
  flops: ({ T = 1, H = 1, Hkv = 1, D = 1 }) => 3 * T * (H + Hkv) * D,
  cases,
  perf,
}
