/**
 * Times ops the way they run inside a model: a recording of several calls over rotated operands, replayed, so that neither
 * the host nor a warm cache is in the figure. And what the device can do at best, measured by the same means.
 */
import { describeBackends, linear, measureReadBandwidth, randomWeights, Tensor, type Device } from '@octet-llm/kernels'
import { lastLevelCacheBytes, median, spread } from './measure.js'

/** One measured op. */
export interface Timing {
  /** Microseconds of one call: the median of the samples. */
  readonly micros: number
  /** The fastest sample. */
  readonly best: number
  /** (slowest - fastest) / median. */
  readonly spread: number
}

/** What the device can do at best: 10^9 bytes a second, 10^12 operations a second in each type. */
export interface Ceilings {
  readonly GBPerS: number
  readonly bf16: number
  /** Null where the device has no FP8 arithmetic. */
  readonly e4m3: number | null
}

/** Where the rows of a benchmark come from. */
export interface BenchDevice {
  readonly device: string
  readonly isa: string
  /** The GPU's name, driver and cuBLASLt; null on a CPU. */
  readonly gpu: { readonly name: string; readonly driver: string; readonly cublasLt: number | null } | null
  readonly threads: number
  readonly node: string
}

const SAMPLES = 9
/** A sample replays until it lasts this long: the host's share of it is then small. */
const SAMPLE_MS = { cpu: 10, cuda: 12 }
/** Calls of a recording at most. */
const MOST_CALLS = 24

export function describeDevice(device: Device): BenchDevice {
  const { cuda } = describeBackends()
  const found = device.kind === 'cuda' && cuda.available ? cuda.devices.find(({ name }) => name === device.name) : undefined
  return {
    device: device.name,
    isa: device.isa,
    gpu: found === undefined || !cuda.available ? null : { name: found.device, driver: cuda.driver, cublasLt: cuda.cublasLt?.version ?? null },
    threads: device.threads,
    node: process.versions.node,
  }
}

/**
 * Sets of operands to rotate through, so that no cache holds a set when its turn comes again.
 * @param bytes of one set
 */
export function rotations(device: Device, bytes: number): number {
  const cache = device.kind === 'cuda' ? 64 * 2 ** 20 : lastLevelCacheBytes()
  return Math.max(1, Math.min(MOST_CALLS, Math.ceil((4 * cache) / Math.max(1, bytes)) + 1))
}

/**
 * The time of one call.
 * @param calls enqueue one op each; they must make no tensors
 */
export async function timeCalls(device: Device, calls: readonly (() => void)[]): Promise<Timing> {
  const graph = device.queue.capture(() => {
    for (const call of calls) call()
  })
  try {
    const once = async (replays: number): Promise<number> => {
      const start = performance.now()
      for (let i = 0; i < replays; i++) graph.replay()
      await device.queue.synchronize()
      return performance.now() - start
    }
    await once(1)
    const replays = Math.max(1, Math.ceil(SAMPLE_MS[device.kind] / Math.max(await once(1), 1e-3)))
    const samples: number[] = []
    for (let i = 0; i < SAMPLES; i++) samples.push(((await once(replays)) / replays / calls.length) * 1e3)
    return { micros: median(samples), best: Math.min(...samples), spread: spread(samples) }
  } finally {
    await graph.dispose()
  }
}

/** Random bf16 values, [rows, columns]. */
export function randomMatrix(device: Device, rows: number, columns: number, stream: number, std = 0.02): Tensor {
  return randomWeights({ out: Tensor.empty([rows, columns], { dtype: 'bf16', device }), seed: 1, std, stream })
}

/** Measures the device: how fast it reads, and a large product. */
export async function measureCeilings(device: Device): Promise<Ceilings> {
  if (device.kind === 'cpu') {
    const bytes = Math.max(2 ** 28, 8 * lastLevelCacheBytes())
    const GBPerS = await measureReadBandwidth({ threads: device.threads, bytes, repeats: 3, isa: device.isa as 'avx2' })
    return { GBPerS, bf16: await gemmRate(device, 512), e4m3: null }
  }
  const GBPerS = await measureReadBandwidth({ device, bytes: 4 * 2 ** 30 })
  const bf16 = await gemmRate(device, 8192)
  const e4m3 = (device.capability.computeCapability?.[0] ?? 0) >= 9 ? await gemmRate(device, 8192, true) : null
  return { GBPerS, bf16, e4m3 }
}

/** 10^12 operations a second of a square product. */
async function gemmRate(device: Device, size: number, fp8 = false): Promise<number> {
  const made: Tensor[] = []
  const keep = (t: Tensor): Tensor => (made.push(t), t)
  const side = (stream: number) => {
    const values = keep(randomMatrix(device, size, size, stream))
    return fp8 ? { data: keep(castTo(values)), scaleInv: keep(Tensor.from(Float32Array.of(1), { shape: [1], dtype: 'f32', device })), granularity: 'tensor' as const } : values
  }
  const [x, weight] = [side(1), side(2)]
  const out = keep(Tensor.empty([size, size], { dtype: 'bf16', device }))
  const { best } = await timeCalls(device, [() => void linear({ x, weight, out })])
  for (const t of made) t.dispose()
  return (2 * size ** 3) / best / 1e6
}

function castTo(values: Tensor): Tensor {
  return randomWeights({ out: Tensor.empty(values.shape, { dtype: 'e4m3', device: values.device }), seed: 1, std: 1 })
}

/** The share of the least time that the bytes and operations need, and the figures themselves. */
export function rates(timing: Timing, bytes: number, flops: number, ceilings: Ceilings, type: 'bf16' | 'e4m3'): { GBPerS: number; TFLOPPerS: number; floorMicros: number; share: number } {
  const peak = (type === 'e4m3' ? ceilings.e4m3 : null) ?? ceilings.bf16
  const floorMicros = Math.max(bytes / ceilings.GBPerS / 1e3, flops / peak / 1e6)
  return { GBPerS: bytes / timing.micros / 1e3, TFLOPPerS: flops / timing.micros / 1e6, floorMicros, share: floorMicros / timing.micros }
}
