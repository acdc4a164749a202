import { itemSize } from '@octet-llm/core'
import { kvAppend as op } from '../ops/kv-append.js'
import { PLACEMENTS, type ContractCase, type OpContract, type Run } from './contract.js'
import { ACTIVATIONS, VALUES, host, ints, product, sampled, values, type HostTensor, type Random } from './host.js'
import { HEAD_DIMS, cacheOffset, paged, storedValue, type CacheAxes, type HostCache } from './rope-cases.js'

const CACHES = ['f32', 'bf16', 'e4m3'] as const
const BATCH = 3
const TOKENS = 12

interface Places {
  readonly rowOf: number[]
  /** -1 where the token is not stored. */
  readonly positions: number[]
}

/** T different places in the sequences of a batch, some of them none. */
export function places(random: Random, T: number, batch: number, tokens: number): Places {
  const cells = random.permutation(batch * tokens).slice(0, T)
  return { rowOf: cells.map((c) => Math.floor(c / tokens)), positions: cells.map((c) => (random.uniform() < 0.2 ? -1 : c % tokens)) }
}

function scalesOf(random: Random, on: boolean, kvHeads: number): HostTensor | null {
  return on ? host('f32', [kvHeads], () => 0.05 + random.uniform()) : null
}

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { x: ACTIVATIONS, cache: CACHES, T: [0, 1, 9], Hkv: [1, 3], D: HEAD_DIMS, pageSize: [1, 4, 64], scaled: [false, true], values: VALUES, placement: PLACEMENTS }
  for (const { name, at } of product(axes)) {
    if (at.pageSize === 64 && at.D > 64) continue
    yield {
      name,
      quick: sampled(index++, 200),
      make(random): Run {
        const shape: CacheAxes = { dtype: at.cache, kvHeads: at.Hkv, d: at.D, pageSize: at.pageSize, tokens: TOKENS, batch: BATCH }
        const cache = paged(random, shape)
        const k = values(random, at.x, [at.T, at.Hkv * at.D], at.values)
        const v = values(random, at.x, k.shape, at.values)
        const { rowOf, positions } = places(random, at.T, BATCH, TOKENS)
        const [kScale, vScale] = [scalesOf(random, at.scaled, at.Hkv), scalesOf(random, at.scaled, at.Hkv)]
        const stored = (x: HostTensor, before: HostTensor, scale: HostTensor | null): Float64Array => {
          const after = before.values.slice()
          positions.forEach((p, t) => {
            if (p >= 0) store(after, x.values.subarray(t * at.Hkv * at.D), cache, rowOf[t]!, p, scale)
          })
          return after
        }
        return {
          inputs: {
            k: { host: k, placement: at.placement },
            v: { host: v, placement: at.placement },
            pageTable: { host: cache.pageTable, placement: at.placement },
            rowOf: { host: ints(rowOf) },
            positions: { host: ints(positions) },
            ...(kScale && vScale && { kScaleInv: { host: kScale }, vScaleInv: { host: vScale } }),
          },
          outputs: { kCache: { dtype: at.cache, shape: cache.k.shape, initial: cache.k }, vCache: { dtype: at.cache, shape: cache.v.shape, initial: cache.v } },
          call: (t) => op({ k: t.k!, v: t.v!, ...cacheArguments(t), rowOf: t.rowOf!, positions: t.positions!, kvHeads: at.Hkv, headDim: at.D }),
          expected: () => ({ kCache: { values: stored(k, cache.k, kScale) }, vCache: { values: stored(v, cache.v, vScale) } }),
        }
      },
    }
  }
  yield* misplaced()
}

/** Every head's row of a token, as the cache stores it. */
export function store(after: Float64Array, token: Float64Array, cache: HostCache, row: number, position: number, scaleInv: HostTensor | null): void {
  for (let h = 0; h < cache.kvHeads; h++) {
    const to = cacheOffset(cache, row, position, h)
    for (let i = 0; i < cache.d; i++) after[to + i] = storedValue(token[h * cache.d + i]!, cache.k.dtype, scaleInv?.values[h] ?? null)
  }
}

type Tensors = Parameters<Run['call']>[0]
export function cacheArguments(t: Tensors) {
  return {
    kCache: t['kCache']!,
    vCache: t['vCache']!,
    pageTable: t['pageTable']!,
    ...(t['kScaleInv'] && { kScaleInv: t['kScaleInv'] }),
    ...(t['vScaleInv'] && { vScaleInv: t['vScaleInv'] }),
  }
}

/** A position past the table, a sequence row outside it, a page outside the cache. */
function* misplaced(): Generator<ContractCase> {
  for (const bad of ['position', 'row', 'negative-row', 'page', 'negative-page'] as const) {
    yield {
      name: `bad=${bad}`,
      quick: true,
      make(random): Run {
        const cache = paged(random, { dtype: 'f32', kvHeads: 1, d: 4, pageSize: 4, tokens: 8, batch: 2 })
        if (bad === 'page') cache.pageTable.values[0] = cache.k.shape[0]!
        if (bad === 'negative-page') cache.pageTable.values[0] = -1
        return {
          inputs: {
            k: { host: values(random, 'f32', [1, 4]) },
            v: { host: values(random, 'f32', [1, 4]) },
            pageTable: { host: cache.pageTable },
            rowOf: { host: ints([bad === 'row' ? 2 : bad === 'negative-row' ? -1 : 0]) },
            positions: { host: ints([bad === 'position' ? 8 : 1]) },
          },
          outputs: { kCache: { dtype: 'f32', shape: cache.k.shape, initial: cache.k }, vCache: { dtype: 'f32', shape: cache.v.shape, initial: cache.v } },
          call: (t) => op({ k: t.k!, v: t.v!, ...cacheArguments(t), rowOf: t.rowOf!, positions: t.positions!, kvHeads: 1, headDim: 4 }),
          expected: () => ({}),
          fails: 'OP_FAILED',
        }
      },
    }
  }
}

export const kvAppend: OpContract = {
  op: 'kvAppend',
  signature: 'k, v [T, Hkv*D] f32|bf16, kCache, vCache [pages, Hkv, pageSize, D] f32|bf16|e4m3, pageTable [B, P] i32, rowOf, positions [T] i32, kScaleInv?, vScaleInv? [Hkv] f32',
  tolerance: 'exact: float32 product with the reciprocal of the scale, rounded once',
  bytes: ({ T = 1, Hkv = 1, D = 1 }) => 4 * T * Hkv * D * itemSize('f32') + 8 * T,
  flops: ({ T = 1, Hkv = 1, D = 1 }) => 2 * T * Hkv * D,
  cases,
}
