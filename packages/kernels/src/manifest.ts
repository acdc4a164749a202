import type { Isa } from './device.js'
import { OP_NAMES, type OpName } from './op-table.js'

/**
 * What a backend offers for an op: its kernel variants in the order they are tried, each with what it asks of a call ('':
 * nothing), or a gap with the reason.
 */
export type ManifestRow = { readonly variants: Readonly<Record<string, string>> } | { readonly gap: string }

export type BackendName = 'cpu' | 'cuda'

/** The CPU levels, lowest first; a build has those of its processor family, each complete. */
export const CPU_LEVELS: readonly Isa[] = ['baseline', 'avx2', 'avx512', 'avx512bf16', 'neon']

const ATTENTION = 'bf16 q and out, bf16 or e4m3 cache, D 64, 128 or 256, pages of a multiple of 16 tokens, rows on 16 bytes'
const LINEAR = 'bf16 or f32 out, bf16 residual, rows on 16 bytes'
const SCALED = 'e4m3 x and weight scaled by tensor or row, or 1x128 and 128x128'

/** Kernel variants of the CUDA backend; an op that is not listed has one portable row. */
const CUDA_VARIANTS: Readonly<Partial<Record<OpName, Readonly<Record<string, string>>>>> = {
  rmsNorm: { row_per_block: '' },
  layerNorm: { row_per_block: '' },
  linear: {
    gemv_e4m3_sm90: `sm_90, at most 4 rows, ${SCALED}, ${LINEAR}`,
    gemv_bf16_sm90: `sm_90, at most 4 rows, bf16 x and weight, ${LINEAR}`,
    decode_e4m3_sm90: `sm_90, at most 128 rows, ${SCALED}, ${LINEAR}`,
    decode_bf16_sm90: `sm_90, at most 128 rows, bf16 x and weight, ${LINEAR}`,
    cublaslt: "libcublasLt, x, weight and out of one dtype or FP8 scaled alike by tensor or row, rows on 16 bytes, bias and residual of out's dtype",
    tiled_e4m3_sm90: `sm_90, ${SCALED}, ${LINEAR}`,
    tiled_bf16_sm90: `sm_90, bf16 x and weight, ${LINEAR}`,
    portable: '',
  },
  gatedActivation: { cluster_sm90: 'sm_90, e4m3 out, at most 128 rows of 32768, rows on 16 bytes', portable: '' },
  ropeKvAppend: { wide: 'bf16 qkv and qOut, bf16 or e4m3 cache, D a multiple of 16, turned by halves, no norms, rows on 16 bytes', portable: '' },
  attention: {
    decode_cluster_sm90: `as decode_sm90, at most an eighth as many pairs of a sequence and a KV head as multiprocessors`,
    decode_sm90: `sm_90, one new token a sequence, at most 8 query heads a KV head and 1024 sequences, ${ATTENTION}`,
    prefill_sm90: `sm_90, ${ATTENTION}`,
    portable: '',
  },
  readFile: { pinned_staging: '' },
}

/** Ops that a CPU level lacks, with the reason. Every other op has one kernel per level. */
const CPU_GAPS: Readonly<Partial<Record<OpName, string>>> = {}

const CALIBRATION = 'part of calibration, which runs on the CPU; the checkpoint that it writes runs anywhere'

/** Ops that the CUDA backend lacks, with the reason. */
const CUDA_GAPS: Readonly<Partial<Record<OpName, string>>> = { gram: CALIBRATION, compensate: CALIBRATION }

const variants = (named: Readonly<Record<string, string>>, gap: string | undefined): ManifestRow => (gap === undefined ? { variants: named } : { gap })

function rows(row: (op: OpName) => ManifestRow): Readonly<Record<OpName, ManifestRow>> {
  return Object.fromEntries(OP_NAMES.map((op) => [op, row(op)])) as Record<OpName, ManifestRow>
}

/**
 * The support manifest: a row for each op and backend. The tests hold it against the binary, so what a device cannot do
 * is written here and never a surprise at run time.
 */
export const MANIFEST: Readonly<Record<BackendName, Readonly<Record<OpName, ManifestRow>>>> = {
  cpu: rows((op) => variants(Object.fromEntries(CPU_LEVELS.map((level) => [level, ''])), CPU_GAPS[op])),
  cuda: rows((op) => variants(CUDA_VARIANTS[op] ?? { portable: '' }, CUDA_GAPS[op])),
}
