import { OctetError } from '@octet-llm/core'

/** TransformerEngine's attention masks. `arbitrary` takes a tensor; the `padding` ones leave pads out. */
export const MASK_TYPES = [
  'no_mask',
  'padding',
  'causal',
  'padding_causal',
  'causal_bottom_right',
  'padding_causal_bottom_right',
  'arbitrary',
] as const

export type AttnMaskType = (typeof MASK_TYPES)[number]

/** Tokens visible [left, right] of a query's own position, both inclusive; -1 is no limit. */
export type WindowSize = readonly [left: number, right: number]

/** @throws OctetError `INVALID_ARGUMENT` */
export function checkMaskType(op: string, maskType: AttnMaskType): void {
  if (MASK_TYPES.includes(maskType)) return
  throw new OctetError('INVALID_ARGUMENT', { op, argument: 'selfAttnMaskType', expected: MASK_TYPES.join(', '), received: String(maskType) })
}

/** @throws OctetError `INVALID_ARGUMENT` */
export function checkWindow(op: string, window: WindowSize): void {
  const ok = window.length === 2 && window.every((n) => Number.isInteger(n) && n >= -1)
  if (!ok) {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: 'windowSize', expected: '[left, right] of whole numbers, -1 for no limit', received: `[${window.join(', ')}]` })
  }
}

/** Where the diagonal of a mask without a cache lies: through the first or through the last query and key. */
export function causalAlignment(maskType: AttnMaskType): 'none' | 'topLeft' | 'bottomRight' {
  if (!maskType.includes('causal')) return 'none'
  return maskType.endsWith('bottom_right') ? 'bottomRight' : 'topLeft'
}

/** What the cached attention kernel needs: causal is always aligned at the last token, so all causal masks agree. */
export function cachedMask(maskType: AttnMaskType, [left, right]: WindowSize): { causal: boolean; window: number } {
  const causal = maskType.includes('causal')
  const refuse = (what: string, hint: string) => {
    throw new OctetError('NOT_SUPPORTED', { op: 'DotProductAttention', message: `[DotProductAttention] ${what} does not work with a KV cache; ${hint}` })
  }
  if (maskType === 'arbitrary') refuse('the arbitrary mask', 'leave inferenceParams out')
  if (right > 0 && !causal) refuse(`a window that ends ${right} tokens ahead`, 'use a causal mask')
  return { causal: causal || right === 0, window: left < 0 ? 0 : left + 1 }
}
