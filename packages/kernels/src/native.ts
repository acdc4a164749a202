import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { OctetError } from '@octet-llm/core'
import { opTableHash } from './op-table.js'

declare const eventBrand: unique symbol
declare const graphBrand: unique symbol
/** A native event or recorded graph, freed with its JavaScript handle. */
export type NativeEvent = { readonly [eventBrand]: true }
export type NativeGraph = { readonly [graphBrand]: true }

export interface NativeLevel {
  /** An instruction set of the CPU, or `sm_90` of a GPU. */
  readonly name: string
  /** Whether this machine runs the level. */
  readonly supported: boolean
  /** Per op of the table: whether the level has a kernel. */
  readonly ops: readonly boolean[]
  /** Of a GPU: its name, compute capability and memory. */
  readonly device?: string
  readonly computeCapability?: readonly [number, number]
  readonly totalBytes?: number
}

/** What describe() of either addon tells. */
export interface NativeDescription {
  readonly opHash: number
  readonly opCount: number
  readonly levels: readonly NativeLevel[]
  /** CUDA: why there is no device; null when there is. */
  readonly reason?: string | null
  /** CUDA: as cudaDriverGetVersion gives it, e.g. 13000; 0 without a driver. */
  readonly driverVersion?: number
  readonly runtimeVersion?: number
  /** CUDA: per op, its variants in the order they are tried. */
  readonly variants?: readonly (readonly string[])[]
}

/** What the addon exports (native/runtime/addon.cc). Addresses, ids, tickets and byte counts are plain numbers. */
export interface NativeBinding {
  describe(): NativeDescription
  setScratch(scratch: Float64Array): void
  /** `values` holds (ticket, status, op, sequence) per completed ticket. */
  onComplete(callback: (values: Float64Array) => void): void
  ref(): void
  unref(): void
  createQueue(level: number, threads: number, spinMicros: number): number
  destroyQueue(queue: number): void
  completed(queue: number): number
  enqueue(queue: number, ticket: number): void
  mark(queue: number, ticket: number): void
  clearFailure(queue: number): void
  record(queue: number): NativeEvent
  /** `inherit`: a failure of the event's queue becomes this queue's too. */
  wait(queue: number, event: NativeEvent, inherit: boolean): void
  eventDone(event: NativeEvent): boolean
  copyIn(queue: number, address: number, rows: number, rowBytes: number, strideBytes: number, source: Uint8Array): boolean
  copyOut(queue: number, address: number, rows: number, rowBytes: number, strideBytes: number, target: Uint8Array): void
  repack(queue: number, source: number, target: number, itemBytes: number, shape: readonly number[], strides: readonly number[]): void
  beginCapture(queue: number): void
  endCapture(queue: number): NativeGraph
  replay(queue: number, graph: NativeGraph): void
  /** Frees a graph that is not replayed again; replays that are enqueued still run. */
  releaseGraph(graph: NativeGraph): void
  /** A zeroed block of memory of the level's device, 64-byte aligned; 0 when it is refused. */
  reserve(level: number, bytes: number): number
  release(level: number, address: number): void
  /** 10^9 bytes per second; 0 when the buffer cannot be had. A GPU answers at once. */
  readProbe(level: number, threads: number, bytes: number, repeats: number): Promise<number> | number
}

/** What the CUDA addon has beyond {@link NativeBinding}. */
export interface CudaBinding extends NativeBinding {
  libraries(level: number): { readonly cublasLt: { readonly path: string; readonly version: number } | null }
  freeBytes(level: number): number
  /** Forces the variant of an op on this thread's device; '' lets the table choose. Call while nothing is enqueued. */
  forceVariant(level: number, op: number, variant: string): void
  /** The variant of the op that ran last on this thread's device, or ''. */
  lastVariant(level: number, op: number): string
  /**
   * Variants that take the call in the scratch, in the order they are tried. A level that this machine lacks stands for an
   * sm_90 device with cuBLASLt.
   */
  fitting(level: number, scratch: Float64Array): readonly string[]
}

/** Native statuses by number (`Status` in native/include/octet/op.h). */
export const STATUS = ['ok', 'cancelled', 'unsupported', 'bad_index', 'io_error', 'short_read', 'out_of_memory', 'internal', 'device_lost'] as const

export const BUILD_COMMAND = 'npx octet build-native'
export const CUDA_BUILD_COMMAND = 'npm run build:cuda'

/** Where a CUDA binary may lie. */
export function cudaCandidates(platform: string = process.platform, arch: string = process.arch): string[] {
  return [fileURLToPath(new URL('../build/Release/octet_cuda.node', import.meta.url)), `@octet-llm/kernels-${platform}-${arch}-cuda`]
}

/** Where a binary may lie, in the order they are tried: one built on this machine wins over the prebuilt package. */
export function nativeCandidates(platform: string = process.platform, arch: string = process.arch): string[] {
  return [
    fileURLToPath(new URL('../build/Release/octet_cpu.node', import.meta.url)),
    `@octet-llm/kernels-${platform}-${arch}`,
  ]
}

/**
 * Loads the native binary and checks that it belongs to this JavaScript. A binary of another version is passed over when
 * a later candidate fits.
 * @throws OctetError `NATIVE_NOT_FOUND` with every attempt and the command that builds one; `ABI_MISMATCH` when binaries
 * load but none has this op table.
 */
export function loadNative(candidates: readonly string[] = nativeCandidates(), command: string = BUILD_COMMAND): NativeBinding {
  const require = createRequire(import.meta.url)
  const attempts: string[] = []
  let mismatch: OctetError | undefined
  for (const candidate of candidates) {
    try {
      const binding = require(candidate) as NativeBinding
      checkAbi(candidate, binding.describe().opHash, command)
      return binding
    } catch (error) {
      if (OctetError.is(error, 'ABI_MISMATCH')) mismatch ??= error
      attempts.push(`${candidate}: ${error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)}`)
    }
  }
  if (mismatch !== undefined) throw mismatch
  throw new OctetError('NATIVE_NOT_FOUND', {
    op: 'openDevice',
    message: `No native ${command === CUDA_BUILD_COMMAND ? 'CUDA ' : ''}binary of @octet-llm/kernels loads on ${process.platform}-${process.arch}; run \`${command}\` to build one. Tried:\n${attempts.map((a) => `  ${a}`).join('\n')}`,
    hint: `run \`${command}\``,
  })
}

/**
 * Loads the CUDA binary. It loads without a driver or toolkit; `describe().levels` is then empty, with the reason.
 * @throws OctetError `NATIVE_NOT_FOUND`, `ABI_MISMATCH`
 */
export function loadCuda(): CudaBinding {
  return loadNative(cudaCandidates(), CUDA_BUILD_COMMAND) as CudaBinding
}

/** @throws OctetError `ABI_MISMATCH` */
function checkAbi(path: string, received: number, command: string): void {
  const expected = opTableHash()
  if (received === expected) return
  throw new OctetError('ABI_MISMATCH', {
    op: 'openDevice',
    argument: path,
    expected: `op table ${expected.toString(16)}`,
    received: received.toString(16),
    hint: `rebuild it with \`${command}\` or install matching versions`,
  })
}
