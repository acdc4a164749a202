/** The tokenizer proper. Runs inside the sandbox only: everything here may be slow, large or stuck on hostile files. */
import type { SpecialTokens } from '@octet-llm/core'
import { collectAddedTokens, type AddedToken } from './added-tokens.js'
import { buildDecoder } from './decoder.js'
import { readTokenizerFiles, type TokenizerFiles } from './files.js'
import { asOctetError } from './json.js'
import { TokenMatcher } from './matcher.js'
import { buildModel, type Model } from './model.js'
import { buildNormalizer, type Normalize } from './normalizer.js'
import { buildPostProcessor, type PostProcessor } from './post-processor.js'
import { buildPreTokenizer, type PreTokenize } from './pre-tokenizer.js'
import type { LoadAnswer } from './protocol.js'
import { readSpecialNames, type SpecialName, type SpecialNames } from './special-names.js'
import { ChatTemplate, readTemplates } from './template.js'
import { buildTable } from './token-table.js'

const REPAIR_HINT = 'download the tokenizer files again, or use another checkpoint'

export class Engine {
  readonly answer: LoadAnswer
  readonly #raw: TokenMatcher
  readonly #normalized: TokenMatcher
  readonly #normalize: Normalize
  readonly #preTokenize: PreTokenize
  readonly #model: Model
  readonly #post: PostProcessor
  readonly #template: ChatTemplate | null
  readonly #names: SpecialNames

  /** @throws OctetError `FILE_NOT_FOUND`, `INVALID_TOKENIZER` or `INVALID_TEMPLATE`. */
  static load(dir: string): Engine {
    try {
      return new Engine(readTokenizerFiles(dir))
    } catch (error) {
      throw asOctetError(error, 'INVALID_TOKENIZER', 'loadTokenizer', 'tokenizer.json', REPAIR_HINT)
    }
  }

  private constructor(files: TokenizerFiles) {
    const { tokenizer, config } = files
    this.#names = readSpecialNames(config, files.specialMap)
    this.#normalize = buildNormalizer(tokenizer['normalizer'])
    this.#preTokenize = buildPreTokenizer(tokenizer['pre_tokenizer'])
    const decoder = buildDecoder(tokenizer['decoder'])
    this.#model = buildModel(tokenizer['model'])
    const added = collectAddedTokens(tokenizer, config, this.#names, this.#model.vocab)
    this.#raw = new TokenMatcher(patterns(added, false, (text) => text))
    this.#normalized = new TokenMatcher(patterns(added, true, this.#normalize))

    const special = specialIds(this.#names, added, this.#model)
    this.#post = buildPostProcessor(tokenizer['post_processor'], config, { bos: special.bosTokenId, eos: special.eosTokenId })
    const templates = readTemplates(config, files.template)
    this.#template = templates.size === 0 ? null : new ChatTemplate(templates)

    const tokens = new Map<number, string>()
    for (const [token, id] of this.#model.vocab) tokens.set(id, token)
    for (const token of added) tokens.set(token.id, token.content)
    const specialSet = new Set(added.filter((token) => token.special).map((token) => token.id))
    this.answer = { special, hasChatTemplate: this.#template !== null, table: buildTable(tokens, specialSet, decoder) }
  }

  /**
   * Added tokens that are matched as written, then normalization, then added tokens that are matched normalized, then
   * pre-tokenization, then BPE: the order of the Rust library.
   */
  encode(text: string, addSpecialTokens: boolean): Uint32Array {
    try {
      const ids: number[] = addSpecialTokens ? [...this.#post.before] : []
      for (const section of this.#raw.split(text)) {
        if (section.id !== null) ids.push(section.id)
        else this.#encodeSection(section.text, section.start === 0, ids)
      }
      if (addSpecialTokens) ids.push(...this.#post.after)
      return Uint32Array.from(ids)
    } catch (error) {
      throw asOctetError(error, 'INVALID_TOKENIZER', 'encode', 'tokenizer.json', REPAIR_HINT)
    }
  }

  #encodeSection(text: string, atStart: boolean, ids: number[]): void {
    for (const part of this.#normalized.split(this.#normalize(text))) {
      if (part.id !== null) {
        ids.push(part.id)
        continue
      }
      for (const piece of this.#preTokenize([part.text], atStart && part.start === 0)) this.#model.encode(piece, ids)
    }
  }

  /** Renders the chat template; special tokens are variables by name (`bos_token`), further variables override them. */
  render(variables: Readonly<Record<string, unknown>>): string {
    const template = this.#template ?? new ChatTemplate(new Map())
    return template.render({ ...Object.fromEntries(this.#names.named), tools: null, documents: null, ...variables })
  }
}

function* patterns(added: readonly AddedToken[], normalized: boolean, normalize: Normalize): Generator<[string, AddedToken]> {
  // Special tokens first: where two patterns are equal after normalization, the Rust library keeps the special one.
  for (const wanted of [true, false]) {
    for (const token of added) {
      if (token.normalized === normalized && token.special === wanted) yield [normalize(token.content), token]
    }
  }
}

function specialIds(names: SpecialNames, added: readonly AddedToken[], model: Model): SpecialTokens {
  const idOf = (name: SpecialName): number | null => {
    const content = names.named.get(name)
    if (content === undefined) return null
    return added.find((token) => token.content === content)?.id ?? model.vocab.get(content) ?? null
  }
  return {
    bosTokenId: idOf('bos_token'),
    eosTokenId: idOf('eos_token'),
    padTokenId: idOf('pad_token'),
    unkTokenId: idOf('unk_token'),
  }
}
