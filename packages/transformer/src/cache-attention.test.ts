/**
 * Attention over a KV cache of every storage type, RoPE on, against float64 attention over the values that the cache
 * stores: random traffic, every token of every sequence at every step.
 */
import { E4M3_TO_F32, f32ToE4m3, roundBf16 } from '@octet-llm/core'
import { openDevice, rope as ropeOp, ropeKvAppend, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams, type KvDType, type SequenceId } from '@octet-llm/kv-cache'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { DotProductAttention } from './dot-product-attention.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { CachePlay, layouts, moves, ROWS, runs, type PlayedRow } from './testing/cache-play.test.util.js'
import { noiseBf16 } from './testing/layer.test.util.js'
import { Workspace } from './workspace.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const LENGTH = 300

interface Kind {
  readonly q: 'f32' | 'bf16'
  readonly kv: KvDType
  /** Scales of each head of keys and values; all 1 without. */
  readonly calibrated: boolean
  /** Absolute and relative. */
  readonly bar: readonly [number, number]
}

/** The bars are TransformerEngine's for bf16; in float32 what is left of the same codes is the order of summation. */
const KINDS: Readonly<Record<string, Kind>> = {
  'f32 over f32': { q: 'f32', kv: 'f32', calibrated: false, bar: [1e-5, 1e-5] },
  'bf16 over bf16': { q: 'bf16', kv: 'bf16', calibrated: false, bar: [1e-2, 1e-3] },
  'bf16 over e4m3, scale 1': { q: 'bf16', kv: 'e4m3', calibrated: false, bar: [1e-2, 1e-3] },
  'bf16 over e4m3, a scale a head': { q: 'bf16', kv: 'e4m3', calibrated: true, bar: [1e-2, 1e-3] },
  'f32 over e4m3, a scale a head': { q: 'f32', kv: 'e4m3', calibrated: true, bar: [1e-5, 1e-5] },
}

/** What the oracle knows of a token: its rotated query, and its key and value as the cache stores them. */
interface TokenValues {
  readonly q: Float32Array
  readonly k: Float32Array
  readonly v: Float32Array
}

/** One attention layer over the caches of a play, and the oracle beside it. */
class Subject {
  readonly heads = 4
  readonly #values = new Map<number, TokenValues>()
  readonly #rope: RotaryPositionEmbedding
  readonly #core: DotProductAttention
  readonly #workspace = new Workspace(device)
  readonly #scales: { readonly k: Float32Array; readonly v: Float32Array }

  constructor(readonly headDim: number, readonly kvHeads: number, readonly kind: Kind) {
    this.#rope = new RotaryPositionEmbedding({ device, dim: headDim, base: 300 })
    this.#core = new DotProductAttention({ numAttentionHeads: this.heads, numGqaGroups: kvHeads, kvChannels: headDim, qkvFormat: 'thd' })
    // Not powers of two, and another for each head.
    const scales = (from: number) => Float32Array.from({ length: kvHeads }, (_, h) => (from + 0.37 * h) / 100)
    this.#scales = { k: scales(0.7), v: scales(1.1) }
  }

  cache(options: { isPaged?: boolean; pageSize?: number; totalNumPages?: number } = {}): InferenceParams {
    const { kv, calibrated } = this.kind
    return new InferenceParams({
      device, numLayers: 1, maxBatchSize: ROWS, maxSequenceLength: LENGTH, numHeadsKv: this.kvHeads, headDimK: this.headDim, dtype: kv, qkvFormat: 'thd',
      ...options, ...(calibrated ? { kvScales: [this.#scales] } : {}),
    })
  }

  /** A new play: its tokens stand elsewhere. */
  forget(): void {
    this.#values.clear()
  }

  /** Q | K | V of a token before its rotation; exact in bf16. */
  qkv(token: number): Float32Array {
    return noiseBf16((this.heads + 2 * this.kvHeads) * this.headDim, token + 1)
  }

  /** Appends and attends. @returns [T, H * D] as float32 */
  async run(params: InferenceParams, rows: readonly PlayedRow[]): Promise<Float32Array> {
    const { heads, kvHeads, headDim } = this
    const tokens = rows.flatMap(({ tokens: all, count }) => all.slice(all.length - count))
    const qkv = Tensor.from(Float32Array.from(tokens.flatMap((t) => [...this.qkv(t)])), { shape: [tokens.length, (heads + 2 * kvHeads) * headDim], dtype: this.kind.q, device })
    const { pageTable, rowOf, positions } = params.active
    const tables = this.#rope.forTokens(positions, rows.map(({ tokens: all, count }) => ({ begin: all.length - count, count })))
    const qOut = Tensor.empty([tokens.length, heads * headDim], { dtype: this.kind.q, device })
    const { k, v, kScaleInv, vScaleInv } = params.layerCache(1)
    ropeKvAppend({ qkv, ...tables, qOut, kCache: k, vCache: v, pageTable, rowOf, cachePositions: positions, kScaleInv, vScaleInv, heads, kvHeads, headDim })
    const out = this.#core.attendCached(qOut, { workspace: this.#workspace, inferenceParams: params })
    const values = await out.toFloat32Array()
    for (const t of [qkv, qOut, out]) t.dispose()
    return values
  }

  /** Values of a token at its position, by the rope op in float32 and host roundings. */
  async #know(token: number, position: number): Promise<void> {
    if (this.#values.has(token)) return
    const { heads, kvHeads, headDim } = this
    const qkv = this.qkv(token)
    const rotated = async (begin: number, count: number) => {
      const x = Tensor.from(qkv.slice(begin * headDim, (begin + count) * headDim), { shape: [1, count * headDim], dtype: 'f32', device })
      const positions = Tensor.from(Int32Array.of(position), { shape: [1], dtype: 'i32', device })
      const y = ropeOp({ x, ...this.#rope.forTokens(positions, [{ begin: position, count: 1 }]), heads: count, headDim })
      const values = await y.toFloat32Array()
      for (const t of [x, positions, y]) t.dispose()
      return values
    }
    const q = await rotated(0, heads)
    const k = await rotated(heads, kvHeads)
    this.#values.set(token, {
      q: this.kind.q === 'bf16' ? q.map(roundBf16) : q,
      k: this.#stored(k, this.#scales.k),
      v: this.#stored(qkv.slice((heads + kvHeads) * headDim), this.#scales.v),
    })
  }

  #stored(x: Float32Array, scales: Float32Array): Float32Array {
    if (this.kind.kv === 'f32') return x
    if (this.kind.kv === 'bf16') return x.map(roundBf16)
    return x.map((value, i) => {
      const scale = this.kind.calibrated ? scales[Math.floor(i / this.headDim)]! : 1
      return E4M3_TO_F32[f32ToE4m3(Math.fround(value * Math.fround(1 / scale)))]! * scale
    })
  }

  /** Attention of the last `count` tokens in float64, [count, H * D]. */
  async oracle({ tokens, count }: PlayedRow): Promise<Float64Array> {
    const { heads, headDim: d } = this
    for (const [position, token] of tokens.entries()) await this.#know(token, position)
    const known = tokens.map((token) => this.#values.get(token)!)
    const out = new Float64Array(count * heads * d)
    for (let i = 0; i < count; i++) {
      const position = tokens.length - count + i
      for (let h = 0; h < heads; h++) attendRow(known.slice(0, position + 1), h * d, Math.floor(h / (heads / this.kvHeads)) * d, d, out.subarray((i * heads + h) * d, (i * heads + h + 1) * d))
    }
    return out
  }

  dispose(): void {
    this.#rope.dispose()
    this.#workspace.dispose()
  }
}

/** The last token's query over all keys, in float64. */
function attendRow(known: readonly TokenValues[], qAt: number, kvAt: number, d: number, out: Float64Array): void {
  const { q } = known.at(-1)!
  const scores = known.map(({ k }) => {
    let sum = 0
    for (let c = 0; c < d; c++) sum += q[qAt + c]! * k[kvAt + c]!
    return sum / Math.sqrt(d)
  })
  const max = Math.max(...scores)
  const exps = scores.map((s) => Math.exp(s - max))
  const total = exps.reduce((a, b) => a + b, 0)
  for (const [j, { v }] of known.entries()) {
    const weight = exps[j]! / total
    for (let c = 0; c < d; c++) out[c]! += weight * v[kvAt + c]!
  }
}

/** The furthest that values are past their bar, as a share of it: at most 1. */
function excess(got: ArrayLike<number>, want: ArrayLike<number>, [absolute, relative]: readonly [number, number]): number {
  let worst = 0
  for (let i = 0; i < want.length; i++) worst = Math.max(worst, Math.abs(got[i]! - want[i]!) / (absolute + relative * Math.abs(want[i]!)))
  return Number.isFinite(worst) ? worst : Infinity
}

const bits = (x: Float32Array): Buffer => Buffer.from(x.buffer, x.byteOffset, x.byteLength)

/** Plays moves on a paged and a plain cache; then prefills in one go what was decoded. */
async function check(subject: Subject, list: Parameters<CachePlay['play']>[0][], layout: { pageSize: number; totalNumPages: number }): Promise<void> {
  subject.forget()
  const [paged, plain] = [subject.cache({ isPaged: true, ...layout }), subject.cache()]
  const play = new CachePlay([paged, plain])
  const width = subject.heads * subject.headDim
  /** What the last step gave for the last token of each sequence. */
  const last = new Map<SequenceId, { readonly tokens: readonly number[]; readonly out: Float32Array }>()
  for (const move of list) {
    const rows = play.play(move)
    if (rows === null) continue
    const got = await subject.run(paged, rows)
    expect(Buffer.compare(bits(await subject.run(plain, rows)), bits(got))).toBe(0)
    let at = 0
    for (const row of rows) {
      const mine = got.subarray(at, (at += row.count * width))
      expect(excess(mine, await subject.oracle(row), subject.kind.bar)).toBeLessThanOrEqual(1)
      if (row.count > 0) last.set(row.id, { tokens: row.tokens, out: mine.slice(-width) })
    }
  }
  for (const { tokens, out } of last.values()) {
    plain.preStep(new Map([['whole', tokens.length]]))
    const whole = await subject.run(plain, [{ id: 'whole', tokens, count: tokens.length }])
    plain.reset()
    // Decode and prefill of the same tokens: on a CPU the same bits, whatever is stored.
    expect(Buffer.compare(bits(whole.slice(-width)), bits(out))).toBe(0)
  }
  for (const params of [paged, plain]) params.dispose()
}

describe.each(Object.entries(KINDS))('%s', (_, kind) => {
  it.each([32, 64, 128, 256].flatMap((d) => [4, 2, 1].map((kvHeads) => [d, kvHeads] as const)))('head_dim %i, %i of 4 heads for keys: arrivals, removals, chunks, forks and reorders', async (headDim, kvHeads) => {
    const subject = new Subject(headDim, kvHeads, kind)
    // One key past a chunk of attention must be met now and then, but the oracle is slow.
    await fc.assert(fc.asyncProperty(moves(runs(20, 260)), layouts(LENGTH), (list, layout) => check(subject, list, layout)), { numRuns: runs(1, 8) })
    subject.dispose()
  })
})
