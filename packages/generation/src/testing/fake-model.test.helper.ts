/**
 * A causal model without a device: its logits are a pure function of the tokens that its cache holds for a row, so a
 * test can recompute what every row must have seen. The cache checks its limits and its callers.
 */
import type { Tensor } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import type { CausalLM } from '@octet-llm/transformer'
import { philox4x32 } from '@octet-llm/core'
import type { DeviceOps } from '../engine/device-ops.js'
import { buildProcessors } from '../processors/build.js'
import { GENERATION_DEFAULTS } from '../config/generation-config.js'
import { argmax, logSoftmax, sampleToken } from '../sampling/index.js'

/** Logits of the token that follows `ids`. */
export type LogitsOf = (ids: readonly number[]) => Float32Array

class FakeTensor {
  disposed = false
  constructor(readonly owner: Set<FakeTensor>, readonly data: Float32Array | Int32Array, readonly shape: readonly number[]) {
    owner.add(this)
  }
  async toFloat32Array(): Promise<Float32Array> {
    this.check()
    const copy = Float32Array.from(this.data)
    await Promise.resolve()
    return copy
  }
  async toInt32Array(): Promise<Int32Array> {
    this.check()
    return Int32Array.from(this.data)
  }
  check(): void {
    if (this.disposed) throw new Error('a disposed tensor was used')
  }
  dispose(): void {
    this.disposed = true
    this.owner.delete(this)
  }
}

const asTensor = (t: FakeTensor): Tensor => t as unknown as Tensor
const asFake = (t: Tensor): FakeTensor => t as unknown as FakeTensor

export interface FakeLimits {
  readonly maxBatchSize: number
  readonly maxSequenceLength: number
  readonly pageSize?: number
  readonly totalNumPages?: number
}

/** Keeps the tokens of each sequence; `order` is by arrival, or reversed to catch callers that assume it. */
export class FakeCache {
  order: number[] = []
  readonly held = new Map<number, number[]>()
  counts = new Map<number, number>()
  disposed = false
  resets = 0
  reorders = 0

  constructor(readonly limits: FakeLimits, private readonly reversed: boolean) {}

  preStep(counts: ReadonlyMap<number, number>): void {
    if (this.disposed) throw new Error('a disposed cache was used')
    for (const id of this.held.keys()) if (!counts.has(id)) this.held.delete(id)
    for (const id of counts.keys()) if (!this.held.has(id)) this.held.set(id, [])
    if (this.held.size > this.limits.maxBatchSize) throw new Error('too many rows')
    for (const [id, ids] of this.held) {
      if (ids.length + counts.get(id)! > this.limits.maxSequenceLength) throw new Error('row too long')
    }
    this.counts = new Map(counts)
    this.checkPages()
    this.setOrder()
  }

  reorder(source: ArrayLike<number>): void {
    if (source.length !== this.order.length) throw new Error('reorder needs every row')
    this.reorders += 1
    const before = this.order.map((id) => this.held.get(id)!)
    this.order.forEach((id, row) => this.held.set(id, [...before[source[row]!]!]))
  }

  fork(from: number, to: number): void {
    if (this.held.has(to)) throw new Error('fork onto a live row')
    this.held.set(to, [...this.held.get(from)!])
    if (this.held.size > this.limits.maxBatchSize) throw new Error('too many rows')
    this.setOrder()
  }

  reset(): void {
    this.resets += 1
    this.held.clear()
    this.order = []
  }

  dispose(): void {
    this.disposed = true
    this.held.clear()
  }

  private setOrder(): void {
    this.order = [...this.held.keys()]
    if (this.reversed) this.order.reverse()
  }

  private checkPages(): void {
    const { pageSize = 64, totalNumPages = Infinity } = this.limits
    let pages = 0
    for (const [id, ids] of this.held) pages += Math.ceil((ids.length + this.counts.get(id)!) / pageSize)
    if (pages > totalNumPages) throw new Error('KV cache full')
  }
}

export interface FakeOptions {
  readonly vocabSize?: number
  readonly logitsOf?: LogitsOf
  readonly reversed?: boolean
  readonly maxPositions?: number
  readonly eosTokenIds?: readonly number[]
  readonly padTokenId?: number | null
  /** Called before each step with its number; may throw. */
  readonly onStep?: (step: number) => void
}

export interface FakeStep {
  readonly tokens: number
  readonly rows: number
  readonly logits: 'last' | 'all' | 'none'
}

/** Logits that depend on every token so far, different in every place: float32 in [-4, 4). */
export function hashedLogits(vocabSize: number, seed = 0): LogitsOf {
  return (ids) => {
    let state = seed >>> 0
    for (const id of ids) state = philox4x32([state, id, 0, 0], [17, 4])[0]
    return Float32Array.from({ length: vocabSize }, (_, v) => (philox4x32([state, v, 1, 0], [17, 4])[0] / 2 ** 32) * 8 - 4)
  }
}

/** Logits that make every row count up from its last id, one a token. */
export const countingLogits = (vocabSize: number): LogitsOf => (ids) => {
  const row = new Float32Array(vocabSize)
  row[(ids.at(-1)! + 1) % vocabSize] = 5
  return row
}

export class FakeModel {
  readonly info
  readonly device: { ops: DeviceOps }
  readonly caches: FakeCache[] = []
  readonly tensors = new Set<FakeTensor>()
  readonly steps: FakeStep[] = []
  /** Calls of each device op. */
  readonly opCalls: string[] = []
  readonly logitsOf: LogitsOf
  readonly #options: FakeOptions

  constructor(options: FakeOptions = {}) {
    this.#options = options
    const vocabSize = options.vocabSize ?? 23
    this.logitsOf = options.logitsOf ?? hashedLogits(vocabSize)
    this.info = {
      vocabSize,
      maxPositionEmbeddings: options.maxPositions ?? 4096,
      bosTokenId: null,
      eosTokenIds: options.eosTokenIds ?? [],
      padTokenId: options.padTokenId ?? null,
    }
    this.device = { ops: this.#deviceOps() }
  }

  get model(): CausalLM {
    return this as unknown as CausalLM
  }

  createInferenceParams(limits: FakeLimits): InferenceParams {
    const cache = new FakeCache(limits, this.#options.reversed ?? false)
    this.caches.push(cache)
    return cache as unknown as InferenceParams
  }

  step(tokens: Tensor, params: InferenceParams, { logits = 'last' }: { logits?: 'last' | 'all' | 'none' } = {}): Tensor | null {
    const cache = params as unknown as FakeCache
    const ids = asFake(tokens)
    ids.check()
    this.steps.push({ tokens: ids.data.length, rows: cache.order.length, logits })
    this.#options.onStep?.(this.steps.length - 1)
    let next = 0
    for (const id of cache.order) {
      const count = cache.counts.get(id) ?? 0
      cache.held.get(id)!.push(...ids.data.subarray(next, next + count))
      next += count
    }
    if (next !== ids.data.length) throw new Error(`packed ${ids.data.length} tokens, the cache expects ${next}`)
    if (logits === 'none') return null
    const { vocabSize } = this.info
    const out = new Float32Array(cache.order.length * vocabSize)
    cache.order.forEach((id, row) => {
      const idle = (cache.counts.get(id) ?? 0) === 0
      out.set(idle ? new Float32Array(vocabSize).fill(NaN) : this.logitsOf(cache.held.get(id)!), row * vocabSize)
    })
    return asTensor(new FakeTensor(this.tensors, out, [cache.order.length, vocabSize]))
  }

  /** True when no tensor is alive and every cache is empty. */
  get released(): boolean {
    return this.tensors.size === 0 && this.caches.every((c) => c.held.size === 0)
  }

  #deviceOps(): DeviceOps {
    const rowsOf = (x: Tensor): Float32Array[] => {
      const { data, shape } = asFake(x)
      asFake(x).check()
      return Array.from({ length: shape[0]! }, (_, r) => Float32Array.from(data.subarray(r * shape[1]!, (r + 1) * shape[1]!)))
    }
    return {
      upload: (values) => asTensor(new FakeTensor(this.tensors, values, [values.length])),
      gather: (x, rows) => {
        this.opCalls.push('gather')
        const all = rowsOf(x)
        const data = Float32Array.from([...rows].flatMap((r) => [...all[r]!]))
        return asTensor(new FakeTensor(this.tensors, data, [rows.length, x.shape[1]!]))
      },
      logSoftmax: (x) => {
        this.opCalls.push('logSoftmax')
        const data = Float32Array.from(rowsOf(x).flatMap((row) => [...logSoftmax(row)]))
        return asTensor(new FakeTensor(this.tensors, data, x.shape))
      },
      argmax: async (x) => {
        this.opCalls.push('argmax')
        return Int32Array.from(rowsOf(x), (row) => argmax(row))
      },
      sample: async (x, sampling, seed, draws) => {
        this.opCalls.push('sample')
        const config = { ...GENERATION_DEFAULTS, ...sampling, minP: sampling.minP === 0 ? null : sampling.minP, doSample: true }
        const warpers = buildProcessors(config, { eosTokenIds: [], maxLength: 0 })
        return Int32Array.from(rowsOf(x), (row, i) => {
          for (const warp of warpers) warp(row, { ids: [], promptLength: 0, sequence: 0 })
          return sampleToken(row, { seed, ...draws[i]! })
        })
      },
    }
  }
}
