import { asArray, asFlag, asInteger, asObject, asString, invalid, partType, shown, unsupported, type JsonObject } from './json.js'
import { BPE, type BpeModel } from './library.js'

/** Ids at or past this are refused: tables in memory are as long as the largest id. Gemma 3, the largest, has 262,208. */
export const MAX_TOKEN_ID = 4_194_303

export interface Model {
  /** Token → id of the model proper, without added tokens. */
  readonly vocab: ReadonlyMap<string, number>
  /** Appends the ids of one pre-token. */
  encode(piece: string, out: number[]): void
}

/**
 * The BPE model of `tokenizer.json`, checked as the Rust tokenizers check it: every merge and its result are in the
 * vocabulary, and so is the unknown token.
 */
export function buildModel(value: unknown): Model {
  const config = asObject(value, 'model')
  // Files written before tokenizers 0.9 leave the type out.
  const type = config['type'] === undefined && 'merges' in config ? 'BPE' : partType(config, 'model')
  if (type !== 'BPE') throw unsupported('model.type', type, ['BPE'])
  checkOptions(config)
  const vocab = asObject(config['vocab'], 'model.vocab')
  checkVocab(vocab)
  const merges = checkMerges(asArray(config['merges'], 'model.merges'), vocab)
  const unk = config['unk_token']
  if (unk !== undefined && unk !== null && !Object.hasOwn(vocab, asString(unk, 'model.unk_token'))) {
    throw invalid('model.unk_token', 'a token of the vocabulary', shown(unk))
  }
  const ignoreMerges = asFlag(config['ignore_merges'], false, 'model.ignore_merges')

  const bpe = new BPE({
    type: 'BPE',
    vocab,
    merges,
    unk_token: unk ?? null,
    fuse_unk: asFlag(config['fuse_unk'], false, 'model.fuse_unk'),
    byte_fallback: asFlag(config['byte_fallback'], false, 'model.byte_fallback'),
    ignore_merges: ignoreMerges,
  })
  // The model keeps its own maps; dropping these halves the memory that a 256k vocabulary holds.
  bpe.config = {}
  bpe.merges = []
  // A piece that is itself a token must stay whole where merges may be ignored.
  const seams = ignoreMerges ? null : new Seams(merges)
  return {
    vocab: bpe.tokens_to_ids,
    encode: (piece, out) => encodePieces(bpe, seams === null ? [piece] : seams.cut(piece), out),
  }
}

/** One pre-token a call: unknown tokens fuse inside it and never across two (as in Rust). */
function encodePieces(bpe: BpeModel, pieces: readonly string[], out: number[]): void {
  for (const token of bpe(pieces)) {
    const id = bpe.tokens_to_ids.get(token) ?? bpe.unk_token_id
    if (id !== undefined) out.push(id)
  }
}

function checkOptions(config: JsonObject): void {
  const dropout = config['dropout']
  if (dropout !== undefined && dropout !== null && dropout !== 0) {
    throw invalid('model.dropout', 'null or 0', shown(dropout), 'dropout would make every encoding random')
  }
  for (const name of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    const value = config[name]
    if (value !== undefined && value !== null && value !== '') throw invalid(`model.${name}`, 'null', shown(value))
  }
}

function checkVocab(vocab: JsonObject): void {
  let size = 0
  for (const token of Object.keys(vocab)) {
    asInteger(vocab[token], 0, MAX_TOKEN_ID, `model.vocab[${shown(token)}]`)
    size++
  }
  if (size === 0) throw invalid('model.vocab', 'at least one token', 'none')
}

/** Merges are `"a b"` before tokenizers 0.20 and `["a", "b"]` since, which also allows spaces inside a token. */
function checkMerges(merges: readonly unknown[], vocab: JsonObject): [string, string][] {
  return merges.map((merge, rank) => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string' || typeof pair[1] !== 'string') {
      throw invalid(`model.merges[${rank}]`, 'two tokens', shown(merge))
    }
    for (const token of [pair[0], pair[1], pair[0] + pair[1]]) {
      if (!Object.hasOwn(vocab, token)) throw invalid(`model.merges[${rank}]`, 'tokens of the vocabulary', shown(token))
    }
    return [pair[0], pair[1]]
  })
}

/**
 * Cuts a pre-token where no merge can ever join its two sides, because no merge result has these two characters beside
 * each other. The ids are the same; Gemma's pre-token is the whole text, and in words the library's cache works, which
 * is 10 to 50 times faster.
 */
export class Seams {
  /** Neighbours in a merge result: left code point × 2^21 + right code point. */
  readonly #joined = new Set<number>()

  constructor(merges: readonly (readonly [string, string])[]) {
    // A result's inner pairs lie in its two halves, which are results themselves or single characters.
    for (const [left, right] of merges) this.#joined.add(lastCodePoint(left) * CODE_POINTS + (right.codePointAt(0) ?? 0))
  }

  /** Pieces that joined are `text`; none is empty. */
  cut(text: string): string[] {
    const pieces: string[] = []
    let begin = 0
    let previous = -1
    for (let i = 0; i < text.length; ) {
      const point = text.codePointAt(i) as number
      if (previous >= 0 && !this.#joined.has(previous * CODE_POINTS + point)) {
        pieces.push(text.slice(begin, i))
        begin = i
      }
      previous = point
      i += point > 0xffff ? 2 : 1
    }
    if (begin < text.length) pieces.push(text.slice(begin))
    return pieces
  }
}

const CODE_POINTS = 2 ** 21

function lastCodePoint(text: string): number {
  const last = text.charCodeAt(text.length - 1)
  const isLow = last >= 0xdc00 && last <= 0xdfff && text.length > 1
  return (isLow ? text.codePointAt(text.length - 2) : last) as number
}
