import { OctetError } from '@octet-llm/core'
import { Completions } from './completions.js'
import { loadCuda, loadNative, type CudaBinding, type NativeBinding } from './native.js'

/** Words of the enqueue scratch (native/runtime/backend.h): op, counts, 16 tensors of 9 words, 24 attributes. */
export const SCRATCH = { header: 3, tensor: 9, maxTensors: 16, maxAttrs: 24, length: 3 + 16 * 9 + 24 } as const

/** What this thread shares among its devices: the addon, the enqueue scratch and the pending promises. */
export interface Runtime {
  readonly native: NativeBinding
  readonly scratch: Float64Array
  readonly completions: Completions
}

const COPY = Symbol.for('octet-llm.kernels')

/**
 * Claims this thread for one copy of the package: tensors of two copies cannot meet, and would fail in odd ways.
 * @throws OctetError `DUPLICATE_KERNELS` naming both copies.
 */
export function claimThread(url: string, registry: Record<symbol, unknown> = globalThis as never): void {
  const other = registry[COPY]
  if (other !== undefined && other !== url) {
    throw new OctetError('DUPLICATE_KERNELS', {
      op: 'openDevice',
      message: `Two copies of @octet-llm/kernels are loaded: ${String(other)} and ${url}; keep one (npm ls @octet-llm/kernels)`,
      hint: 'keep one copy: npm ls @octet-llm/kernels',
    })
  }
  registry[COPY] = url
}

const loaded: { cpu?: Runtime; cuda?: Runtime & { readonly native: CudaBinding } } = {}

function start<N extends NativeBinding>(native: N): Runtime & { readonly native: N } {
  const scratch = new Float64Array(SCRATCH.length)
  native.setScratch(scratch)
  return { native, scratch, completions: new Completions(native) }
}

/** Loads the CPU addon on first use. */
export function runtime(): Runtime {
  claimThread(new URL('.', import.meta.url).href)
  loaded.cpu ??= start(loadNative())
  return loaded.cpu
}

/** Loads the CUDA addon on first use. @throws as loadCuda */
export function cudaRuntime(): Runtime & { readonly native: CudaBinding } {
  claimThread(new URL('.', import.meta.url).href)
  loaded.cuda ??= start(loadCuda())
  return loaded.cuda
}
