import type { Isa } from './device.js'
import { OP_NAMES, type OpName } from './op-table.js'

/** What a backend offers for an op: its kernel variants, or a gap with the reason. */
export type ManifestRow = { readonly variants: readonly string[] } | { readonly gap: string }

export type BackendName = 'cpu' | 'cuda'

/** The CPU levels, lowest first; a build has those of its processor family, each complete. */
export const CPU_LEVELS: readonly Isa[] = ['baseline', 'avx2', 'avx512', 'avx512bf16', 'neon']

/** Kernel variants of the CUDA backend, in the order they are tried; an op that is not listed has one portable row. */
const CUDA_VARIANTS: Readonly<Partial<Record<OpName, readonly string[]>>> = {
  rmsNorm: ['row_per_block'],
  layerNorm: ['row_per_block'],
  linear: ['decode_e4m3_sm90', 'decode_bf16_sm90', 'cublaslt', 'portable'],
  attention: ['decode_sm90', 'prefill_sm90', 'portable'],
  readFile: ['pinned_staging'],
}

/** Ops that a CPU level lacks, with the reason. Every other op has one kernel per level. */
const CPU_GAPS: Readonly<Partial<Record<OpName, string>>> = {}

function rows(row: (op: OpName) => ManifestRow): Readonly<Record<OpName, ManifestRow>> {
  return Object.fromEntries(OP_NAMES.map((op) => [op, row(op)])) as Record<OpName, ManifestRow>
}

/**
 * The support manifest: a row for each op and backend. The tests hold it against the binary, so what a device cannot do
 * is written here and never a surprise at run time.
 */
export const MANIFEST: Readonly<Record<BackendName, Readonly<Record<OpName, ManifestRow>>>> = {
  cpu: rows((op) => (CPU_GAPS[op] === undefined ? { variants: CPU_LEVELS } : { gap: CPU_GAPS[op] })),
  cuda: rows((op) => ({ variants: CUDA_VARIANTS[op] ?? ['portable'] })),
}
