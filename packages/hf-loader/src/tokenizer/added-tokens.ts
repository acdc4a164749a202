import { asArray, asFlag, asInteger, asObject, asString, invalid, shown, type JsonObject } from './json.js'
import { MAX_TOKEN_ID } from './model.js'
import type { SpecialNames } from './special-names.js'

/** A token that is found in the text before the model sees it. */
export interface AddedToken {
  readonly content: string
  readonly id: number
  /** Matches only where no word character touches it. */
  readonly singleWord: boolean
  /** Takes the white space on its left (right) with it. */
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Is looked for after normalization rather than before. */
  readonly normalized: boolean
  /** Left out by `skipSpecialTokens`. */
  readonly special: boolean
}

/**
 * The added tokens that transformers would hold: those of tokenizer.json, then `added_tokens_decoder` of the config
 * (flags override, missing tokens join), then the named special tokens, which become special where the vocabulary has
 * them. A token that the model's vocabulary also has keeps the model's id, as in the Rust library.
 */
export function collectAddedTokens(
  tokenizer: JsonObject,
  config: JsonObject,
  names: SpecialNames,
  vocab: ReadonlyMap<string, number>,
): AddedToken[] {
  const tokens = new Map<string, AddedToken>()
  const listed = tokenizer['added_tokens'] ?? []
  asArray(listed, 'added_tokens').forEach((entry, i) => {
    const argument = `added_tokens[${i}]`
    const fields = asObject(entry, argument)
    addToken(tokens, fields, asInteger(fields['id'], 0, MAX_TOKEN_ID, `${argument}.id`), argument, vocab)
  })
  const decoder = config['added_tokens_decoder']
  if (decoder !== undefined && decoder !== null) {
    for (const [key, entry] of Object.entries(asObject(decoder, 'added_tokens_decoder'))) {
      const argument = `added_tokens_decoder[${shown(key)}]`
      addToken(tokens, asObject(entry, argument), asInteger(Number(key), 0, MAX_TOKEN_ID, argument), argument, vocab)
    }
  }
  for (const content of names.all) {
    const known = tokens.get(content)
    const id = known?.id ?? vocab.get(content)
    if (id === undefined) continue
    tokens.set(content, known === undefined ? plainSpecial(content, id) : { ...known, special: true })
  }
  checkIds(tokens, vocab)
  return [...tokens.values()]
}

function plainSpecial(content: string, id: number): AddedToken {
  return { content, id, singleWord: false, lstrip: false, rstrip: false, normalized: false, special: true }
}

function addToken(
  tokens: Map<string, AddedToken>,
  fields: JsonObject,
  id: number,
  argument: string,
  vocab: ReadonlyMap<string, number>,
): void {
  const content = asString(fields['content'], `${argument}.content`)
  if (content === '') return
  const special = asFlag(fields['special'], false, `${argument}.special`)
  tokens.set(content, {
    content,
    id: vocab.get(content) ?? tokens.get(content)?.id ?? id,
    singleWord: asFlag(fields['single_word'], false, `${argument}.single_word`),
    lstrip: asFlag(fields['lstrip'], false, `${argument}.lstrip`),
    rstrip: asFlag(fields['rstrip'], false, `${argument}.rstrip`),
    normalized: asFlag(fields['normalized'], !special, `${argument}.normalized`),
    special,
  })
}

/** Two tokens on one id could not both be decoded. */
function checkIds(tokens: ReadonlyMap<string, AddedToken>, vocab: ReadonlyMap<string, number>): void {
  const owner = new Map<number, string>()
  const fresh = new Set<number>()
  for (const token of tokens.values()) {
    const other = owner.get(token.id)
    if (other !== undefined) throw invalid(`added token ${shown(token.content)}`, 'an id of its own', `${token.id}, which is ${shown(other)}`)
    owner.set(token.id, token.content)
    if (!vocab.has(token.content)) fresh.add(token.id)
  }
  if (fresh.size === 0) return
  for (const [token, id] of vocab) {
    if (fresh.has(id)) throw invalid(`added token ${shown(owner.get(id))}`, 'an id of its own', `${id}, which is ${shown(token)}`)
  }
}
