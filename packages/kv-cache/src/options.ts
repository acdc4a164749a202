import { OctetError } from '@octet-llm/core'
import type { Device } from '@octet-llm/kernels'

import type { KvDType, KvLayerScales } from './buffers.js'
import type { EvictionHook } from './step-plan.js'

/** How the tokens of a step are laid out in k and v: `thd` is packed, the others are padded. */
export type QkvFormat = 'bshd' | 'sbhd' | 'thd'

/** TransformerEngine's InferenceParams arguments in camelCase. */
export interface InferenceParamsOptions {
  readonly device: Device
  readonly numLayers: number
  /** Most sequences at once. */
  readonly maxBatchSize: number
  /** Most tokens of one sequence, prompt included; rounded up to whole pages. */
  readonly maxSequenceLength: number
  readonly numHeadsKv: number
  readonly headDimK: number
  /** Must equal headDimK. Default headDimK. */
  readonly headDimV?: number
  /** Storage type. */
  readonly dtype: KvDType
  /** false (default): room for maxBatchSize full sequences. true: `totalNumPages` pages shared by all. */
  readonly isPaged?: boolean
  /** Paged only. Default: as many as maxBatchSize full sequences need; fewer saves memory. */
  readonly totalNumPages?: number
  /** Tokens a page holds. Default 64. */
  readonly pageSize?: number
  /** Most new tokens of one sequence in one step; reserves the step's arrays up front. Default: they grow on demand. */
  readonly maxCtxLen?: number
  /** Format that `step` takes. Default 'bshd'. */
  readonly qkvFormat?: QkvFormat
  /** e4m3 only: scales of each layer's keys and values, calibrated. Default: all 1. */
  readonly kvScales?: readonly KvLayerScales[]
  /** Names idle sequences to forget when a step's pages run out. Default: none, the step is refused. */
  readonly evict?: EvictionHook
}

const DEFAULT_PAGE_SIZE = 64

/** Checks every argument and returns the page size. @throws OctetError `INVALID_ARGUMENT` */
export function validateOptions(options: InferenceParamsOptions): number {
  const pageSize = options.pageSize ?? DEFAULT_PAGE_SIZE
  const refuse = (argument: string, expected: string, received: unknown, hint?: string) => {
    throw new OctetError('INVALID_ARGUMENT', { op: 'InferenceParams', argument, expected, received: String(received), ...(hint === undefined ? {} : { hint }) })
  }
  const { numLayers, maxBatchSize, maxSequenceLength, numHeadsKv, headDimK, headDimV, maxCtxLen, totalNumPages } = options
  for (const [argument, value] of Object.entries({ numLayers, maxBatchSize, maxSequenceLength, numHeadsKv, headDimK, pageSize, headDimV, maxCtxLen, totalNumPages })) {
    const optional = argument === 'headDimV' || argument === 'maxCtxLen' || argument === 'totalNumPages'
    if (optional && value === undefined) continue
    if (!Number.isSafeInteger(value) || value! < 1) refuse(argument, 'a whole number of at least 1', value)
  }
  if (headDimV !== undefined && headDimV !== headDimK) refuse('headDimV', `headDimK (${headDimK})`, headDimV)
  if (!['f32', 'bf16', 'e4m3'].includes(options.dtype)) refuse('dtype', 'f32, bf16 or e4m3', options.dtype)
  if (totalNumPages !== undefined && options.isPaged !== true) refuse('totalNumPages', 'nothing for a non-paged cache', totalNumPages, 'set isPaged: true')
  if (!['bshd', 'sbhd', 'thd', undefined].includes(options.qkvFormat)) refuse('qkvFormat', 'bshd, sbhd or thd', options.qkvFormat)
  if (options.kvScales !== undefined) checkScales(options, options.kvScales, refuse)
  return pageSize
}

function checkScales({ dtype, numLayers, numHeadsKv }: InferenceParamsOptions, scales: readonly KvLayerScales[], refuse: (argument: string, expected: string, received: unknown) => void): void {
  if (dtype !== 'e4m3') refuse('kvScales', 'nothing for a cache that is not e4m3', dtype)
  if (scales.length !== numLayers) refuse('kvScales', `${numLayers} layers`, scales.length)
  for (const [i, layer] of scales.entries()) {
    for (const part of ['k', 'v'] as const) {
      const values = layer[part]
      if (values.length !== numHeadsKv) refuse(`kvScales[${i}].${part}`, `[${numHeadsKv}]`, `[${values.length}]`)
      const bad = values.find((value) => !(value > 0 && Number.isFinite(value)))
      if (bad !== undefined) refuse(`kvScales[${i}].${part}`, 'finite scales above 0', bad)
    }
  }
}
