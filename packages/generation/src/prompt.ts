import { OctetError } from '@octet-llm/core'

/** One row of token ids: a plain list or a typed array. */
export type TokenIds = ArrayLike<number>

/** A prompt as the model reads it and as the caller gave it. */
export interface PromptRow {
  /** What the model sees: ids with mask 1, in order. At least one. */
  readonly tokens: readonly number[]
  /** The row as given, its trailing pads moved to the front; what processors and `sequences` show. */
  readonly row: readonly number[]
}

export interface PromptInput {
  /** [B][T_b] ids, or one row [T]. Rows may differ in length. */
  readonly inputIds: readonly TokenIds[] | TokenIds
  /** [B][T_b], 1 for tokens and 0 for pads on either side; of one row also [T]. */
  readonly attentionMask?: readonly ArrayLike<number>[] | ArrayLike<number>
}

export interface PromptRules {
  readonly vocabSize: number
  readonly padTokenId: number | null
  readonly eosTokenIds: readonly number[]
}

function refuse(argument: string, expected: string, received: string, hint?: string): never {
  throw new OctetError('INVALID_ARGUMENT', { op: 'generate', argument, expected, received, ...(hint === undefined ? {} : { hint }) })
}

function rowsOf(value: readonly ArrayLike<number>[] | ArrayLike<number>): readonly ArrayLike<number>[] {
  const first: unknown = value[0]
  return typeof first === 'number' ? [value as ArrayLike<number>] : (value as readonly ArrayLike<number>[])
}

/**
 * Splits a padded or ragged batch into packed rows. Without a mask, pads are recognised only where `padTokenId`
 * occurs and is no EOS id, as transformers does.
 *
 * @throws OctetError `INVALID_ARGUMENT` for an empty prompt, a mask of another shape or with other values than 0 and
 * 1, or an unmasked id outside the vocabulary.
 */
export function preparePrompts(input: PromptInput, rules: PromptRules): PromptRow[] {
  const rows = rowsOf(input.inputIds)
  if (rows.length === 0) refuse('inputIds', 'at least one prompt', 'none')
  const masks = input.attentionMask === undefined ? inferMasks(rows, rules) : rowsOf(input.attentionMask)
  if (masks.length !== rows.length) refuse('attentionMask', `${rows.length} rows, as inputIds`, `${masks.length}`)
  return rows.map((ids, b) => prepareRow(ids, masks[b]!, b, rules.vocabSize))
}

function inferMasks(rows: readonly TokenIds[], { padTokenId, eosTokenIds }: PromptRules): readonly ArrayLike<number>[] {
  const infer = padTokenId !== null && !eosTokenIds.includes(padTokenId)
  return rows.map((ids) => Array.from(ids, (id) => (infer && id === padTokenId ? 0 : 1)))
}

function prepareRow(ids: TokenIds, mask: ArrayLike<number>, b: number, vocabSize: number): PromptRow {
  if (mask.length !== ids.length) refuse(`attentionMask[${b}]`, `${ids.length} values, as inputIds[${b}]`, `${mask.length}`)
  const tokens: number[] = []
  let lastToken = -1
  for (let t = 0; t < ids.length; t++) {
    const keep = mask[t]!
    if (keep !== 0 && keep !== 1) refuse(`attentionMask[${b}][${t}]`, '0 or 1', String(keep))
    if (keep === 0) continue
    const id = ids[t]!
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      refuse(`inputIds[${b}][${t}]`, `a token id in [0, ${vocabSize})`, String(id), 'mask pads that are no tokens with attentionMask 0')
    }
    tokens.push(id)
    lastToken = t
  }
  if (tokens.length === 0) {
    refuse(`inputIds[${b}]`, 'at least one token', ids.length === 0 ? 'an empty prompt' : 'only pads', 'start the prompt with the BOS token')
  }
  const all = Array.from(ids)
  return { tokens, row: [...all.slice(lastToken + 1), ...all.slice(0, lastToken + 1)] }
}
