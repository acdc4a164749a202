/**
 * The typed seam to `@huggingface/tokenizers` and `@huggingface/jinja`. Their declaration files use extensionless
 * imports, which NodeNext resolution does not follow, so the few members that Octet calls are declared here.
 */
import * as jinja from '@huggingface/jinja'
import * as tokenizers from '@huggingface/tokenizers'

/** A BPE model: a function from pre-tokens to token strings. */
export interface BpeModel {
  (preTokens: readonly string[]): string[]
  /** The JSON it was made from; replaced after construction so that the parsed file can be collected. */
  config: unknown
  merges: unknown
  readonly tokens_to_ids: ReadonlyMap<string, number>
  readonly unk_token_id?: number
}

interface SplitPattern {
  readonly pattern: RegExp | null
}

interface ByteLevelPart {
  pre_tokenize_text(text: string): string[]
}

interface TokenizersLibrary {
  readonly BPE: new (config: unknown) => BpeModel
  readonly SplitPreTokenizer: new (config: unknown) => SplitPattern
  readonly ByteLevelPreTokenizer: new (config: unknown) => ByteLevelPart
}

/** A value inside the template interpreter. */
export interface TemplateValue {
  readonly type: string
  readonly value: unknown
}

export interface TemplateEnvironment {
  readonly variables: Map<string, TemplateValue>
  set(name: string, value: unknown): TemplateValue
}

interface JinjaLibrary {
  readonly Environment: new () => TemplateEnvironment
  readonly Interpreter: new (environment: TemplateEnvironment) => { run(program: unknown): TemplateValue }
  readonly tokenize: (source: string, options: { trim_blocks: boolean; lstrip_blocks: boolean }) => unknown
  readonly parse: (tokens: unknown) => unknown
}

const parts = tokenizers as unknown as TokenizersLibrary
export const { BPE, SplitPreTokenizer, ByteLevelPreTokenizer } = parts
export const { Environment, Interpreter, tokenize, parse } = jinja as unknown as JinjaLibrary
