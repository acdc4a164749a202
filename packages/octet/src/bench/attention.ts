/** `octet bench attention`: decode over a full cache and causal prefill, with bf16 and FP8 keys and values. */
import { attention, randomWeights, Tensor, type Device } from '@octet-llm/kernels'
import { describeDevice, measureCeilings, randomMatrix, rates, rotations, timeCalls, type BenchDevice, type Ceilings } from './device-timer.js'
import type { KernelShapes } from './shapes-of.js'

export interface AttentionRow {
  readonly bench: 'attention'
  readonly hardware: BenchDevice
  readonly ceilings: Ceilings
  readonly model: string
  readonly phase: 'decode' | 'prefill'
  readonly kv: 'bf16' | 'e4m3'
  /** B */
  readonly batch: number
  /** Tokens of each sequence in the cache. */
  readonly context: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly variant: string
  readonly micros: number
  readonly best: number
  readonly spread: number
  readonly GBPerS: number
  readonly TFLOPPerS: number
  readonly floorMicros: number
  readonly share: number
}

export interface AttentionBenchOptions {
  readonly shapes: KernelShapes
  readonly batches: readonly number[]
  readonly contexts: readonly number[]
  readonly kv: readonly ('bf16' | 'e4m3')[]
  readonly signal: AbortSignal
}

const PAGE = 64
/** Tokens of a prefill at most: more only take longer. */
const MOST_PREFILL = 32768

export async function* benchAttention(device: Device, options: AttentionBenchOptions): AsyncGenerator<AttentionRow> {
  const [hardware, ceilings] = [describeDevice(device), await measureCeilings(device)]
  const { shapes, batches, contexts, kv, signal } = options
  const { name: model, heads, kvHeads, headDim } = shapes
  for (const phase of ['decode', 'prefill'] as const) {
    for (const batch of batches) {
      for (const context of contexts) {
        if (phase === 'prefill' && batch * context > MOST_PREFILL) continue
        for (const type of kv) {
          signal.throwIfAborted()
          const queries = phase === 'decode' ? 1 : context
          const item = type === 'e4m3' ? 1 : 2
          const bytes = 2 * batch * context * kvHeads * headDim * item + 2 * batch * queries * heads * headDim * 2
          // Causal: query i of a prefill sees i + 1 keys.
          const pairs = phase === 'decode' ? batch * context : (batch * context * (context + 1)) / 2
          const flops = 4 * pairs * heads * headDim
          const timing = await timeOne(device, shapes, batch, context, queries, type, bytes)
          yield { bench: 'attention', hardware, ceilings, model, phase, kv: type, batch, context, heads, kvHeads, headDim, variant: device.kernels().attention, ...timing, ...rates(timing, bytes, flops, ceilings, 'bf16') }
        }
      }
    }
  }
}

async function timeOne(device: Device, { heads, kvHeads, headDim }: KernelShapes, batch: number, context: number, queries: number, kv: 'bf16' | 'e4m3', bytes: number): ReturnType<typeof timeCalls> {
  const each = Math.ceil(context / PAGE)
  const made: Tensor[] = []
  const keep = (t: Tensor): Tensor => (made.push(t), t)
  const ints = (values: readonly number[], shape: readonly number[]): Tensor => keep(Tensor.from(Int32Array.from(values), { shape, dtype: 'i32', device }))
  const cache = (stream: number): Tensor => keep(randomWeights({ out: Tensor.empty([batch * each, kvHeads, PAGE, headDim], { dtype: kv, device }), seed: 1, std: 1, stream }))
  const shared = {
    q: keep(randomMatrix(device, batch * queries, heads * headDim, 9, 1)),
    out: keep(Tensor.empty([batch * queries, heads * headDim], { dtype: 'bf16', device })),
    pageTable: ints(Array.from({ length: batch * each }, (_, i) => i), [batch, each]),
    cuSeqlensQ: ints(Array.from({ length: batch + 1 }, (_, i) => i * queries), [batch + 1]),
    kvLens: ints(Array.from({ length: batch }, () => context), [batch]),
    ...(kv === 'e4m3' ? { kScaleInv: keep(ones(device, kvHeads)), vScaleInv: keep(ones(device, kvHeads)) } : {}),
    heads, kvHeads, headDim, maxSeqlenQ: queries, maxSeqlenKv: context,
  }
  const calls = Array.from({ length: rotations(device, bytes) }, (_, i) => {
    const [kCache, vCache] = [cache(2 * i), cache(2 * i + 1)]
    return () => void attention({ ...shared, kCache, vCache })
  })
  try {
    return await timeCalls(device, calls)
  } finally {
    for (const t of made) t.dispose()
  }
}

function ones(device: Device, count: number): Tensor {
  return Tensor.from(new Float32Array(count).fill(1), { shape: [count], dtype: 'f32', device })
}
