import { OctetError } from '@octet-llm/core'
import { chooseLevel, defaultThreads, type Device, type Isa } from './device.js'
import { cudaUnavailable } from './cuda.js'
import { CUDA_BUILD_COMMAND, nativeCandidates } from './native.js'
import { cudaRuntime, runtime } from './runtime.js'

/** What this build and machine can run, for `octet doctor`. */
export interface BackendReport {
  readonly cpu:
    | {
        readonly available: true
        /** Lowest first. `reason` says why a level is chosen, passed over or not supported. */
        readonly levels: readonly { readonly name: Isa; readonly supported: boolean; readonly reason: string }[]
        readonly chosen: Isa
        /** Threads that a device uses unless told otherwise. */
        readonly threads: number
      }
    | { readonly available: false; readonly reason: string; readonly hint: string }
  readonly cuda:
    | {
        readonly available: true
        readonly devices: readonly { readonly name: string; readonly device: string; readonly computeCapability: readonly [number, number]; readonly totalBytes: number; readonly freeBytes: number }[]
        readonly driver: string
        readonly cublasLt: { readonly path: string; readonly version: number } | null
      }
    | { readonly available: false; readonly reason: string; readonly hint: string }
}

/** Describes every backend and the choice that `openDevice('auto')` makes. Never throws: a failure becomes a reason. */
export function describeBackends(): BackendReport {
  const cuda = describeCuda()
  try {
    const { levels } = runtime().native.describe()
    const chosen = chooseLevel(levels, 'auto')
    const reason = (supported: boolean, index: number): string => {
      if (!supported) return 'this CPU or operating system lacks its instructions'
      return index === chosen ? 'the highest level that this CPU runs' : 'a higher level runs here'
    }
    return {
      cpu: {
        available: true,
        levels: levels.map(({ name, supported }, i) => ({ name: name as Isa, supported, reason: reason(supported, i) })),
        chosen: levels[chosen]!.name as Isa,
        threads: defaultThreads(),
      },
      cuda,
    }
  } catch (error) {
    if (!OctetError.is(error)) throw error
    return { cpu: { available: false, reason: error.message, hint: error.hint ?? `looked for ${nativeCandidates().join(' and ')}` }, cuda }
  }
}

function describeCuda(): BackendReport['cuda'] {
  const reason = cudaUnavailable()
  if (reason !== null) return { available: false, reason, hint: `needs an NVIDIA driver and the CUDA binary (${CUDA_BUILD_COMMAND} in a checkout)` }
  const { native } = cudaRuntime()
  const { levels, driverVersion = 0 } = native.describe()
  return {
    available: true,
    devices: levels.map((level, i) => ({ name: `cuda:${i}`, device: level.device ?? level.name, computeCapability: level.computeCapability ?? [0, 0], totalBytes: level.totalBytes ?? 0, freeBytes: native.freeBytes(i) })),
    driver: `${Math.floor(driverVersion / 1000)}.${Math.floor((driverVersion % 1000) / 10)}`,
    cublasLt: native.libraries(0).cublasLt,
  }
}

/**
 * Measures how fast memory is read, in 10^9 bytes per second: the bound that decoding is held against. On a CPU the best of
 * three read-only kernels over `repeats` rounds, off the event loop, about 4 * repeats * bytes / rate; on a GPU the best of
 * `repeats` passes.
 *
 * @param options `device` (default: the CPU), `bytes` (default 1 GiB; take at least 8 times the last-level cache),
 * `threads` (default: the physical cores), `isa` (default: the highest), `repeats` (default 5)
 * @throws OctetError `INVALID_ARGUMENT`, `NOT_SUPPORTED` (isa), `OUT_OF_MEMORY` when the buffer cannot be had.
 */
export async function measureReadBandwidth(
  options: { readonly device?: Device; readonly bytes?: number; readonly threads?: number; readonly isa?: Isa | 'auto'; readonly repeats?: number } = {},
): Promise<number> {
  const gpu = options.device?.kind === 'cuda' ? options.device : undefined
  const { native } = gpu?.runtime ?? runtime()
  const level = gpu?.level ?? chooseLevel(native.describe().levels, options.isa ?? 'auto')
  const bytes = options.bytes ?? 1 << 30
  const threads = options.threads ?? defaultThreads()
  const repeats = options.repeats ?? 5
  for (const [argument, value] of Object.entries({ bytes, threads, repeats })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'measureReadBandwidth', argument, expected: 'a whole number >= 1', received: String(value) })
    }
  }
  const rate = await native.readProbe(level, threads, bytes, repeats)
  if (rate > 0) return rate
  throw new OctetError('OUT_OF_MEMORY', { op: 'measureReadBandwidth', argument: 'bytes', expected: 'a buffer that the system grants', received: `${bytes} bytes` })
}
