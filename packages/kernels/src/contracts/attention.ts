import { itemSize } from '@octet-llm/core'
import { attention as op } from '../ops/attention.js'
import { Attended, DIMS, HEADS, LENGTHS, MOST_WORK, attendRow, withoutInfinity, workOf } from './attention-cases.js'
import { attentionInvariance } from './attention-invariance.js'
import type { ContractCase, Expected, OpContract, PerfCase, Run } from './contract.js'
import { ACTIVATIONS, host, ints, rms, sampled, spread, values, type HostTensor, type Random, type Values } from './host.js'
import { cacheArguments } from './kv-append.js'
import { cacheOffset, paged, type HostCache } from './rope-cases.js'

interface Problem {
  readonly q: HostTensor
  readonly cache: HostCache
  readonly lengths: readonly (readonly [q: number, kv: number])[]
  readonly heads: number
  readonly causal: boolean
  readonly window: number
  readonly softcap: number
  readonly kScale: HostTensor | null
  readonly vScale: HostTensor | null
}

function reference(p: Problem): Expected {
  const { heads, cache } = p
  const { d, kvHeads } = cache
  const to = new Attended(p.q.values.length)
  const nan = new Uint8Array(to.length)
  let row = 0
  p.lengths.forEach(([qLen, kvLen], b) => {
    // Of each KV head: the columns of V in which some token of the sequence has NaN.
    const columns = Array.from({ length: kvHeads }, (_, kvHead) => {
      const offsets = Array.from({ length: kvLen }, (_, j) => cacheOffset(cache, b, j, kvHead))
      return Uint8Array.from({ length: d }, (_, i) => Number(offsets.some((o) => Number.isNaN(cache.v.values[o + i]!))))
    })
    for (let i = 0; i < qLen; i++, row++) {
      const position = kvLen - qLen + i
      const lo = p.window > 0 ? Math.max(0, position - p.window + 1) : 0
      const hi = p.causal ? position + 1 : kvLen
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / (heads / kvHeads))
        const at = (row * heads + h) * d
        nan.set(columns[kvHead]!, at)
        const offsets: number[] = []
        for (let j = lo; j < hi; j++) offsets.push(cacheOffset(cache, b, j, kvHead))
        attendRow(
          p.q.values.subarray(at, at + d),
          offsets.map((o) => cache.k.values.subarray(o, o + d)),
          offsets.map((o) => cache.v.values.subarray(o, o + d)),
          { d, scale: 1 / Math.sqrt(d), softcap: p.softcap, kScale: p.kScale?.values[kvHead] ?? 1, vScale: p.vScale?.values[kvHead] ?? 1 },
          to,
          at,
        )
      }
    }
  })
  return to.expected((i) => nan[i] === 1)
}

interface Axes {
  readonly q: 'f32' | 'bf16'
  readonly out: 'f32' | 'bf16'
  readonly cache: 'f32' | 'bf16' | 'e4m3'
  readonly heads: readonly [number, number]
  readonly D: number
  readonly pageSize: number
  readonly lengths: readonly (readonly [number, number])[]
  readonly causal: boolean
  readonly window: number
  readonly softcap: number
  readonly scaled: boolean
  readonly values: Values
  readonly padding: number
  /** Default: every tensor is a slice with gaps. `plain`: as models have them, what the fast kernels ask for. */
  readonly placement?: 'plain'
  /** Default: the op's own. `tight`: the longest lengths, as a model's step gives them. */
  readonly bounds?: 'tight' | undefined
}

function build(random: Random, at: Axes): Run {
  const [heads, kvHeads] = at.heads
  const tokens = at.lengths.reduce((sum, [q]) => sum + q, 0) + at.padding
  const capacity = Math.max(1, ...at.lengths.map(([, kv]) => kv))
  const made = paged(random, { dtype: at.cache, kvHeads, d: at.D, pageSize: at.pageSize, tokens: capacity, batch: at.lengths.length, values: at.values })
  const cache = { ...made, v: withoutInfinity(made.v) }
  // Wide scores, so that soft-capping and the maximum matter.
  const q = values(random, at.q, [tokens, heads * at.D], at.values, 3)
  const scale = (): HostTensor | null => (at.scaled ? host('f32', [kvHeads], () => 0.3 + random.uniform()) : null)
  const [kScale, vScale] = [scale(), scale()]
  const cu = [0]
  for (const [length] of at.lengths) cu.push(cu.at(-1)! + length)
  return {
    inputs: {
      q: { host: q, placement: at.placement ?? 'offset' },
      kCache: { host: cache.k },
      vCache: { host: cache.v },
      pageTable: { host: cache.pageTable, placement: 'padded' },
      cuSeqlensQ: { host: ints(cu) },
      kvLens: { host: ints(at.lengths.map(([, kv]) => kv)) },
      ...(kScale && vScale && { kScaleInv: { host: kScale }, vScaleInv: { host: vScale } }),
    },
    outputs: { out: { dtype: at.out, shape: q.shape, placement: at.placement ?? 'padded' } },
    call: (t) =>
      void op({
        q: t.q!,
        ...cacheArguments(t),
        cuSeqlensQ: t.cuSeqlensQ!,
        kvLens: t.kvLens!,
        heads,
        kvHeads,
        headDim: at.D,
        causal: at.causal,
        window: at.window,
        softcap: at.softcap,
        ...(at.bounds && { maxSeqlenQ: Math.max(...at.lengths.map(([q]) => q)), maxSeqlenKv: capacity }),
        out: t.out!,
      }),
    expected: () => ({ out: { ...reference({ q, cache, lengths: at.lengths, heads, causal: at.causal, window: at.window, softcap: at.softcap, kScale, vScale }), ...rms(at.values, 64) } }),
  }
}

function* cases(): Generator<ContractCase> {
  const axes = {
    q: ACTIVATIONS,
    out: ACTIVATIONS,
    cache: ['f32', 'bf16', 'e4m3'] as const,
    heads: Object.keys(HEADS),
    D: DIMS,
    pageSize: [1, 16, 64, 100, 256],
    lengths: Object.keys(LENGTHS),
    causal: [true, false],
    window: [0, 5, 200],
    softcap: [0, 4],
    scaled: [false, true],
    values: ['normal', 'special'] as const,
    padding: [0, 3],
  }
  let index = 0
  for (const { name, at } of spread(axes, 2400)) {
    const heads = HEADS[at.heads]!
    const lengths = LENGTHS[at.lengths]!
    // The reference's work, or the numbers that fill the cache.
    const capacity = lengths.length * (Math.max(1, ...lengths.map(([, kv]) => kv)) + at.pageSize)
    const work = Math.max(workOf(lengths, heads[0], at.D), 8 * capacity * heads[1] * at.D)
    if (work > MOST_WORK.full) continue
    yield { name, quick: work < MOST_WORK.quick && sampled(index++, 12), make: (random) => build(random, { ...at, heads, lengths }) }
  }
  yield* fast()
  for (const [form, at] of Object.entries({ portable: PLAIN, fast: FAST })) {
    yield { name: `form=${form} sequences=0 padding=3`, quick: true, make: (random) => build(random, { ...at, lengths: [], padding: 3, bounds: undefined }) }
  }
  yield* broken()
}

/** Shapes as models have them, bf16 throughout or over an FP8 cache: where the kernels for tensor cores are chosen. */
function* fast(): Generator<ContractCase> {
  const axes = {
    cache: ['bf16', 'e4m3'] as const,
    heads: Object.keys(HEADS),
    D: [64, 128, 256],
    pageSize: [16, 64, 256],
    lengths: Object.keys(LENGTHS),
    causal: [true, false],
    window: [0, 5, 200],
    softcap: [0, 4],
    scaled: [false, true],
    values: ['normal', 'special'] as const,
    padding: [0, 2],
  }
  let index = 0
  for (const { name, at } of spread(axes, 1200)) {
    const heads = HEADS[at.heads]!
    const lengths = LENGTHS[at.lengths]!
    const work = workOf(lengths, heads[0], at.D)
    if (work > MOST_WORK.full) continue
    const form = { ...at, q: 'bf16', out: 'bf16', heads, lengths, placement: 'plain', bounds: 'tight' } as const
    yield { name: `fast ${name}`, quick: work < MOST_WORK.quick && sampled(index++, 6), make: (random) => build(random, form) }
  }
}

const PLAIN: Axes = { q: 'f32', out: 'f32', cache: 'f32', heads: [2, 1], D: 8, pageSize: 4, lengths: [[1, 5], [2, 8]], causal: true, window: 0, softcap: 0, scaled: false, values: 'normal', padding: 0 }

const FAST = { ...PLAIN, q: 'bf16', out: 'bf16', cache: 'bf16', D: 64, pageSize: 16, placement: 'plain', bounds: 'tight' } as const
const BROKEN: Readonly<Record<string, Axes>> = {
  portable: PLAIN,
  prefill: { ...FAST, lengths: [[1, 20], [2, 32]] },
  decode: { ...FAST, lengths: [[1, 20], [1, 32], [1, 3]] },
}

/** Lengths and pages that lead outside their tensors. */
function* broken(): Generator<ContractCase> {
  const faults: Readonly<Record<string, (run: Run) => void>> = {
    'kvLen-past-table': (run) => (run.inputs['kvLens']!.host.values[1] = 40),
    'kvLen-negative': (run) => (run.inputs['kvLens']!.host.values[1] = -1),
    'cu-past-rows': (run) => (run.inputs['cuSeqlensQ']!.host.values[2] = 9),
    'cu-descending': (run) => (run.inputs['cuSeqlensQ']!.host.values[2] = 0),
    page: (run) => (run.inputs['pageTable']!.host.values[0] = 1000),
    'page-negative': (run) => (run.inputs['pageTable']!.host.values[1] = -1),
  }
  for (const [form, at] of Object.entries(BROKEN)) {
    for (const [name, spoil] of Object.entries(faults)) {
      yield {
        name: `form=${form} bad=${name}`,
        quick: true,
        make(random) {
          const run = build(random, at)
          spoil(run)
          return { ...run, fails: 'OP_FAILED' }
        },
      }
    }
  }
}

/** Pairs of query and key that count, times heads. */
function pairs(at: Axes): number {
  let sum = 0
  for (const [q, kv] of at.lengths) for (let i = 0; i < q; i++) sum += at.causal ? kv - q + i + 1 : kv
  return sum * at.heads[0]
}

const SHAPES = { 'llama-3.2-1b': [[32, 8], 64], 'llama-3-8b': [[32, 8], 128], 'gemma-2b': [[8, 1], 256], mha: [[16, 16], 128] } as const
const WORK: Readonly<Record<string, Axes['lengths']>> = {
  'decode B=1 S=1024': [[1, 1024]],
  'decode B=1 S=8192': [[1, 8192]],
  'decode B=8 S=1024': Array.from({ length: 8 }, () => [1, 1024] as const),
  'prefill T=512': [[512, 512]],
  'prefill T=2048': [[2048, 2048]],
}

function* perf(): Generator<PerfCase> {
  for (const [model, [heads, D]] of Object.entries(SHAPES)) {
    for (const [work, lengths] of Object.entries(WORK)) {
      for (const cache of ['bf16', 'e4m3'] as const) {
        if (cache === 'e4m3' && model !== 'llama-3.2-1b') continue
        const at: Axes = { ...PLAIN, q: 'bf16', out: 'bf16', cache, heads, D, pageSize: 64, lengths }
        const tokens = lengths.reduce((sum, [q]) => sum + q, 0)
        const keys = lengths.reduce((sum, [, kv]) => sum + kv, 0)
        yield {
          name: `${model} ${cache} ${work}`,
          bytes: 2 * keys * heads[1] * D * itemSize(cache) + 4 * tokens * heads[0] * D,
          flops: 4 * pairs(at) * D,
          make: (random) => build(random, at),
        }
      }
    }
  }
}

export const attention: OpContract = {
  op: 'attention',
  signature: 'q [T, H*D] f32|bf16, kCache, vCache [pages, Hkv, pageSize, D] f32|bf16|e4m3, pageTable [B, P], cuSeqlensQ [B+1], kvLens [B] i32, out [T, H*D] f32|bf16, kScaleInv?, vScaleInv? [Hkv] f32',
  tolerance: 'forward error of scores, weights and the chains of 256 products; see attendRow',
  bytes: ({ T = 1, S = 1, H = 1, Hkv = 1, D = 1 }) => 2 * S * Hkv * D * itemSize('f32') + 2 * T * H * D * itemSize('f32'),
  flops: ({ T = 1, S = 1, H = 1, D = 1 }) => 4 * T * S * H * D,
  cases,
  perf,
  invariance: attentionInvariance,
}
