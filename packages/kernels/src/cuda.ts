import { OctetError, type DeviceCapability } from '@octet-llm/core'
import { cudaRuntime } from './runtime.js'

/** Why no GPU can be opened, or null. Never throws: a binary that does not load becomes a reason. */
export function cudaUnavailable(): string | null {
  try {
    const { levels, reason } = cudaRuntime().native.describe()
    if (levels.length === 0) return reason ?? 'no device was found'
    return levels.some((level) => level.supported) ? null : `the CUDA binary has no machine code for ${levels.map(({ name }) => name).join(' or ')}`
  } catch (error) {
    if (!OctetError.is(error)) throw error
    return error.code === 'NATIVE_NOT_FOUND' ? 'the CUDA binary is not built or installed' : error.message
  }
}

/**
 * Index of the GPU that `name` asks for; null when `auto` finds none.
 * @throws OctetError `DEVICE_NOT_FOUND` with the reason, for `cuda` and `cuda:<index>`.
 */
export function cudaLevel(name: 'auto' | 'cuda' | `cuda:${number}` | string): number | null {
  const why = cudaUnavailable()
  if (why !== null) {
    if (name === 'auto') return null
    throw new OctetError('DEVICE_NOT_FOUND', { op: 'openDevice', argument: 'name', expected: `a CUDA device (${why})`, received: name, hint: "run `octet doctor`, or use 'cpu' or 'auto'" })
  }
  const { levels } = cudaRuntime().native.describe()
  const index = name.includes(':') ? Number(name.slice(5)) : levels.findIndex((level) => level.supported)
  if (levels[index]?.supported === true) return index
  throw new OctetError('DEVICE_NOT_FOUND', { op: 'openDevice', argument: 'name', expected: `one of ${levels.map((_, i) => `cuda:${i}`).join(', ')}`, received: name })
}

/** What FP8 support checks read of a GPU. */
export function cudaCapability(level: number): DeviceCapability {
  const { native } = cudaRuntime()
  const { levels, runtimeVersion = 0 } = native.describe()
  return {
    kind: 'cuda',
    computeCapability: levels[level]!.computeCapability ?? null,
    cudaVersion: `${Math.floor(runtimeVersion / 1000)}.${Math.floor((runtimeVersion % 1000) / 10)}`,
    cublasLtVersion: native.libraries(level).cublasLt?.version ?? null,
  }
}
