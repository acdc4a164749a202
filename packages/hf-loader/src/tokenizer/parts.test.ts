/** Each part of the pipeline against the Rust library's rules, many of them its own unit tests' vectors. */
import { describe, expect, it } from 'vitest'
import { collectAddedTokens, type AddedToken } from './added-tokens.js'
import { BYTE_OF_CHAR, byteLevelBytes, fallbackByte } from './bytes.js'
import { bytesOf, decodeIds } from './decode.js'
import { buildDecoder } from './decoder.js'
import { TokenMatcher } from './matcher.js'
import { buildModel, Seams } from './model.js'
import { buildNormalizer } from './normalizer.js'
import { buildPostProcessor } from './post-processor.js'
import { buildPreTokenizer } from './pre-tokenizer.js'
import { readSpecialNames } from './special-names.js'
import { addedToken, octetError, tinyTokenizer, type Json } from './support.test-helper.js'
import { buildTable } from './token-table.js'

const refused = (run: () => unknown) => octetError(run, 'INVALID_TOKENIZER')

describe('normalizer', () => {
  it('replaces strings and patterns, contents taken literally', () => {
    expect(buildNormalizer({ type: 'Replace', pattern: { String: ' ' }, content: '▁' })(' a  b')).toBe('▁a▁▁b')
    expect(buildNormalizer({ type: 'Replace', pattern: { String: 'a' }, content: '$&$1' })('bab')).toBe('b$&$1b')
    expect(buildNormalizer({ type: 'Replace', pattern: { Regex: 'a+' }, content: '$&' })('baab')).toBe('b$&b')
    expect(buildNormalizer({ type: 'Replace', pattern: { String: '' }, content: 'x' })('ab')).toBe('ab')
  })

  it('prepends, normalizes and chains in order', () => {
    const llama2 = buildNormalizer({
      type: 'Sequence',
      normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }],
    })
    expect(llama2('a b')).toBe('▁a▁b')
    expect(llama2('')).toBe('')
    expect(buildNormalizer({ type: 'NFC' })('e\u0301')).toBe('é')
    expect(buildNormalizer({ type: 'NFKD' })('ﬁé')).toBe('fie\u0301')
    expect(buildNormalizer(null)(' x')).toBe(' x')
  })

  it('refuses what it does not know', async () => {
    expect((await refused(() => buildNormalizer({ type: 'BertNormalizer' }))).argument).toBe('normalizer.type')
    expect((await refused(() => buildNormalizer({ type: 'Sequence', normalizers: [null, 7] }))).argument).toBe('normalizer.normalizers[1]')
    await refused(() => buildNormalizer({ type: 'Replace', pattern: { Regex: 'a*' }, content: '' }))
    await refused(() => buildNormalizer({ type: 'Replace', pattern: {}, content: '' }))
    await refused(() => buildNormalizer({ type: 'Prepend' }))
    await refused(() => buildNormalizer('NFC'))
  })
})

describe('pre-tokenizer', () => {
  const split = (behavior: string, invert = false) =>
    buildPreTokenizer({ type: 'Split', pattern: { String: '-' }, behavior, invert })

  // The Rust library's own table (normalizer.rs, tests of split).
  it.each([
    ['Removed', ['The', 'final', 'countdown']],
    ['Isolated', ['The', '-', 'final', '-', '-', 'countdown']],
    ['MergedWithPrevious', ['The-', 'final-', '-', 'countdown']],
    ['MergedWithNext', ['The', '-final', '-', '-countdown']],
    ['Contiguous', ['The', '-', 'final', '--', 'countdown']],
  ])('splits: %s', (behavior, expected) => {
    expect(split(behavior)(['The-final--countdown'], true)).toEqual(expected)
  })

  it('splits every piece, inverted, at the edges and not at all', () => {
    expect(split('Isolated')(['a-b', '-'], true)).toEqual(['a', '-', 'b', '-'])
    expect(split('Removed', true)(['a--b'], true)).toEqual(['-', '-'])
    expect(split('MergedWithPrevious')(['-a-'], true)).toEqual(['-', 'a-'])
    expect(split('MergedWithNext')(['-a-'], true)).toEqual(['-a', '-'])
    expect(split('Contiguous')(['ab'], true)).toEqual(['ab'])
    expect(split('Isolated')([''], true)).toEqual([])
  })

  it('byte level: words by GPT-2, spaces as Ġ, prefix space once', () => {
    const words = buildPreTokenizer({ type: 'ByteLevel', add_prefix_space: false })
    expect(words(['Hello my friend, how is your day going?'], true)).toEqual(
      ['Hello', 'Ġmy', 'Ġfriend', ',', 'Ġhow', 'Ġis', 'Ġyour', 'Ġday', 'Ġgoing', '?'],
    )
    expect(words(['Hello there       dear'], true)).toEqual(['Hello', 'Ġthere', 'ĠĠĠĠĠĠ', 'Ġdear'])
    expect(words(['Hello there\nHello'], true)).toEqual(['Hello', 'Ġthere', 'Ċ', 'Hello'])
    expect(words(['i⭢j'], true)).toEqual(['i', 'âŃ¢', 'j'])
    // U+0085 is white space and U+FEFF is not, unlike in JavaScript's \s.
    expect(words(['a\u0085b'], true)).toEqual(['a', 'Âħ', 'b'])
    expect(words(['.\ufeff.'], true)).toHaveLength(1)
    const whole = buildPreTokenizer({ type: 'ByteLevel', add_prefix_space: true, use_regex: false })
    expect(whole(['Hello my'], true)).toEqual(['ĠHelloĠmy'])
    expect(whole([' Hello'], true)).toEqual(['ĠHello'])
  })

  it('metaspace: schemes and split', () => {
    const metaspace = (options: Json) => buildPreTokenizer({ type: 'Metaspace', replacement: '▁', ...options })
    expect(metaspace({ prepend_scheme: 'always' })(['Hey   friend!'], true)).toEqual(['▁Hey', '▁', '▁', '▁friend!'])
    expect(metaspace({ prepend_scheme: 'always', split: false })(['Hey friend'], false)).toEqual(['▁Hey▁friend'])
    expect(metaspace({ prepend_scheme: 'first' })(['Hey', 'you'], true)).toEqual(['▁Hey', 'you'])
    expect(metaspace({ prepend_scheme: 'first' })(['Hey', 'you'], false)).toEqual(['Hey', 'you'])
    expect(metaspace({ add_prefix_space: false })(['Hey'], true)).toEqual(['Hey'])
    expect(metaspace({})([' Hey'], true)).toEqual(['▁Hey'])
  })

  it('digits: one by one or together, in every script', () => {
    expect(buildPreTokenizer({ type: 'Digits', individual_digits: true })(['a12٣b'], true)).toEqual(['a', '1', '2', '٣', 'b'])
    expect(buildPreTokenizer({ type: 'Digits' })(['a12٣b'], true)).toEqual(['a', '12٣', 'b'])
  })

  it("Llama 3's pattern: contractions in any case, digits in threes, trailing space", () => {
    const llama = buildPreTokenizer({
      type: 'Split',
      pattern: { Regex: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
      behavior: 'Isolated',
      invert: false,
    })
    expect(llama(["I'LL 12345  a!\n\n b "], true)).toEqual(['I', "'LL", ' ', '123', '45', ' ', ' a', '!\n\n', ' b', ' '])
  })

  it('refuses what it does not know', async () => {
    expect((await refused(() => buildPreTokenizer({ type: 'BertPreTokenizer' }))).argument).toBe('pre_tokenizer.type')
    await refused(() => buildPreTokenizer({ type: 'Split', pattern: { String: '-' }, behavior: 'Sideways' }))
    await refused(() => buildPreTokenizer({ type: 'Metaspace', prepend_scheme: 'sometimes' }))
    await refused(() => buildPreTokenizer({ type: 'Metaspace', replacement: '__' }))
    await refused(() => buildPreTokenizer({ type: 'Sequence' }))
    expect(() => buildPreTokenizer({ type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated' })).toThrow(/regular expression/)
  })
})

describe('added tokens in text', () => {
  const token = (content: string, id: number, flags: Partial<AddedToken> = {}): readonly [string, AddedToken] => [
    content,
    { content, id, singleWord: false, lstrip: false, rstrip: false, normalized: false, special: true, ...flags },
  ]
  const split = (text: string, ...entries: (readonly [string, AddedToken])[]) => {
    const sections = new TokenMatcher(entries).split(text)
    expect(sections.map((section) => section.text).join('')).toBe(text)
    return sections.map(({ text: part, id }) => (id === null ? part : id))
  }

  it('finds the longest at the leftmost place and covers the text', () => {
    expect(split('a<s>b</s>', token('<s>', 1), token('</s>', 2))).toEqual(['a', 1, 'b', 2])
    expect(split('<s><s>', token('<s>', 1))).toEqual([1, 1])
    expect(split('\n\n\nx', token('\n', 1), token('\n\n', 2))).toEqual([2, 1, 'x'])
    expect(split('abcd', token('bcd', 1), token('abcx', 2), token('ab', 3))).toEqual([3, 'cd'])
    expect(split('日本🐉', token('🐉', 1))).toEqual(['日本', 1])
    expect(split('plain', token('', 1))).toEqual(['plain'])
    expect(split('', token('<s>', 1))).toEqual([])
  })

  it('takes white space along, but not what an earlier token took', () => {
    expect(split('a  <m>  b', token('<m>', 1, { lstrip: true }))).toEqual(['a', 1, '  b'])
    expect(split('a  <m>  b', token('<m>', 1, { rstrip: true }))).toEqual(['a  ', 1, 'b'])
    expect(split(' <m>', token('<m>', 1, { lstrip: true }))).toEqual([1])
    expect(split('\n<m>', token('<m>', 1, { lstrip: true }), token('\n', 2))).toEqual([2, 1])
    expect(new TokenMatcher([token('<m>', 1, { lstrip: true })]).split('a <m>')[1]).toEqual({ text: ' <m>', start: 1, id: 1 })
  })

  it('matches single words only where no word character touches', () => {
    const word = token('ing', 1, { singleWord: true })
    expect(split('going ing', word)).toEqual(['going ', 1])
    expect(split('ing-ings', word)).toEqual([1, '-ings'])
    expect(split('éing', word)).toEqual(['éing'])
    expect(split('𝒳ing', word)).toEqual(['𝒳ing'])
  })

  it('keeps the first of two equal patterns', () => {
    expect(split('x', token('x', 1), token('x', 2))).toEqual([1])
  })
})

describe('added tokens of the files', () => {
  const collect = (added: readonly Json[], config: Json = {}, vocab: Record<string, number> = {}) =>
    collectAddedTokens({ added_tokens: added }, config, readSpecialNames(config, {}), new Map(Object.entries(vocab)))

  it("keeps the model's id, takes flags from the config, and makes named tokens special", () => {
    const tokens = collect(
      [addedToken(5, '<a>'), addedToken(9, '<b>', { normalized: true })],
      { bos_token: { content: '<a>' }, eos_token: '<v>', pad_token: '<nowhere>', added_tokens_decoder: { 9: { content: '<b>', special: true, normalized: false }, 11: { content: '<c>' } } },
      { '<a>': 4, '<v>': 6 },
    )
    const brief = tokens.map(({ content, id, special, normalized }) => ({ content, id, special, normalized }))
    expect(brief).toEqual([
      { content: '<a>', id: 4, special: true, normalized: false },
      { content: '<b>', id: 9, special: true, normalized: false },
      { content: '<c>', id: 11, special: false, normalized: true },
      { content: '<v>', id: 6, special: true, normalized: false },
    ])
  })

  it('refuses ids that two tokens share and fields of a wrong type', async () => {
    await refused(() => collect([addedToken(1, 'x'), addedToken(1, 'y')]))
    await refused(() => collect([addedToken(1, 'x')], {}, { b: 1 }))
    await refused(() => collect([addedToken(-1, 'x')]))
    await refused(() => collect([addedToken(1.5, 'x')]))
    await refused(() => collect([{ content: 'x', id: 2 ** 40 }]))
    await refused(() => collect([{ id: 1 }]))
    await refused(() => collect([addedToken(1, 'x', { special: 'yes' })]))
    await refused(() => collect([], { added_tokens_decoder: { one: { content: 'x' } } }))
    await refused(() => collect([], { bos_token: 7 }))
    await refused(() => collect([], { extra_special_tokens: [null, { content: 3 }] }))
  })

  it('reads names as strings, objects and mappings; the map file fills gaps only', () => {
    const names = readSpecialNames(
      { bos_token: '<s>', eos_token: null, extra_special_tokens: { image_token: '<i>' }, additional_special_tokens: ['<x>', { content: '<y>' }] },
      { bos_token: '<other>', eos_token: '</s>', unk_token: { content: '<unk>' } },
    )
    expect(Object.fromEntries(names.named)).toEqual({ bos_token: '<s>', unk_token: '<unk>', image_token: '<i>' })
    expect(names.all).toEqual(['<s>', '<unk>', '<x>', '<y>', '<i>'])
  })
})

describe('model', () => {
  const encode = (model: unknown, piece: string): number[] => {
    const ids: number[] = []
    buildModel(model).encode(piece, ids)
    return ids
  }

  it('merges by rank, leftmost first', () => {
    const { model } = tinyTokenizer({ merges: [['a', 'b'], ['b', 'c'], ['ab', 'c'], ['a', 'a']] })
    const vocab = (model as { vocab: Record<string, number> }).vocab
    expect(encode(model, 'abc')).toEqual([vocab['abc']])
    expect(encode(model, 'bcabc')).toEqual([vocab['bc'], vocab['abc']])
    expect(encode(model, 'aaa')).toEqual([vocab['aa'], vocab['a']])
    expect(encode(model, 'aaab')).toEqual([vocab['aa'], vocab['ab']])
  })

  it('falls back to bytes, then to unk, then to nothing', () => {
    const bytes = ['<0xC3>', '<0xA9>', '<unk>']
    const options = { byte_fallback: true, unk_token: '<unk>', fuse_unk: true }
    const model = tinyTokenizer({ tokens: bytes, model: options })['model']
    expect(encode(model, 'aéb')).toEqual([0, 26, 27, 1])
    expect(encode(model, 'a日本b')).toEqual([0, 28, 1])
    expect(encode(tinyTokenizer({ tokens: bytes, model: { ...options, fuse_unk: false } })['model'], '日本')).toEqual([28, 28])
    expect(encode(tinyTokenizer()['model'], 'a日b')).toEqual([0, 1])
  })

  it('ignores merges for a whole piece only', () => {
    const model = (ignore: boolean) => tinyTokenizer({ tokens: ['xyz'], model: { ignore_merges: ignore } })['model']
    expect(encode(model(true), 'xyz')).toEqual([26])
    expect(encode(model(true), 'xyza')).toEqual([23, 24, 25, 0])
    expect(encode(model(false), 'xyz')).toEqual([23, 24, 25])
  })

  it('takes merges as strings, as before tokenizers 0.20', () => {
    const model = { ...(tinyTokenizer({ tokens: ['ab'] })['model'] as Json), merges: ['a b'] }
    expect(encode(model, 'ab')).toEqual([26])
  })

  it('cuts only where no merge can join', () => {
    const seams = new Seams([['a', 'b'], ['ab', 'c'], ['🐉', 'x'], ['日', '🐉']])
    expect(seams.cut('abcab')).toEqual(['abc', 'ab'])
    expect(seams.cut('日🐉x🐉')).toEqual(['日🐉x', '🐉'])
    expect(seams.cut('ba')).toEqual(['b', 'a'])
    expect(seams.cut('')).toEqual([])
  })

  it('refuses other models, broken merges and wrong ids', async () => {
    expect((await refused(() => buildModel({ type: 'Unigram', vocab: [] }))).argument).toBe('model.type')
    expect((await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: [['a', 'b']] }))).argument).toBe('model.merges[0]')
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0, b: 1 }, merges: [['a', 'b']] }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: ['a'] }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: ['a a a'] }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: [7] }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 'length' }, merges: [] }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 4e9 }, merges: [] }))
    await refused(() => buildModel({ type: 'BPE', vocab: {}, merges: [] }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: [], unk_token: '<unk>' }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: [], dropout: 0.1 }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 }, merges: [], end_of_word_suffix: '</w>' }))
    await refused(() => buildModel({ type: 'BPE', vocab: { a: 0 } }))
    await refused(() => buildModel(null))
  })
})

describe('post-processor', () => {
  const template = (single: unknown, special: Json = { '<s>': { id: '<s>', ids: [7], tokens: ['<s>'] }, '</s>': { ids: [8, 9] } }): Json => ({
    type: 'TemplateProcessing', single, pair: [], special_tokens: special,
  })
  const sequence = { Sequence: { id: 'A', type_id: 0 } }
  const token = (id: string) => ({ SpecialToken: { id, type_id: 0 } })
  const ids = { bos: 7, eos: 8 }

  it('takes the ids of the template, and lets the config override them', () => {
    const full = template([token('<s>'), sequence, token('</s>')])
    expect(buildPostProcessor(full, {}, ids)).toEqual({ before: [7], after: [8, 9] })
    expect(buildPostProcessor(null, {}, ids)).toEqual({ before: [], after: [] })
    expect(buildPostProcessor(full, { add_bos_token: false }, ids)).toEqual({ before: [], after: [8] })
    expect(buildPostProcessor(null, { add_bos_token: true }, ids)).toEqual({ before: [7], after: [] })
    expect(buildPostProcessor(full, { add_eos_token: false }, ids)).toEqual({ before: [7], after: [] })
    expect(buildPostProcessor(null, { add_bos_token: true }, { bos: null, eos: null })).toEqual({ before: [], after: [] })
  })

  it('wraps in order inside a sequence', () => {
    const inner = template([token('<s>'), sequence])
    const outer = template([token('</s>'), sequence, token('<s>')])
    expect(buildPostProcessor({ type: 'Sequence', processors: [{ type: 'ByteLevel' }, inner, outer] }, {}, ids)).toEqual({ before: [8, 9, 7], after: [7] })
  })

  it('refuses what it does not know', async () => {
    await refused(() => buildPostProcessor({ type: 'BertProcessing' }, {}, ids))
    await refused(() => buildPostProcessor(template([token('<s>')]), {}, ids))
    await refused(() => buildPostProcessor(template([sequence, sequence]), {}, ids))
    await refused(() => buildPostProcessor(template([token('toString'), sequence]), {}, ids))
    await refused(() => buildPostProcessor(template([token('x'), sequence], { x: { ids: ['7'] } }), {}, ids))
    await refused(() => buildPostProcessor(null, { add_bos_token: 'yes' }, ids))
  })
})

describe('decoder', () => {
  const GEMMA = { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }] }
  const LLAMA2 = { ...GEMMA, decoders: [...GEMMA.decoders, { type: 'Strip', content: ' ', start: 1, stop: 0 }] }
  const decode = (decoder: unknown, tokens: readonly string[], special: readonly number[] = [], skip = false): string => {
    const table = buildTable(new Map(tokens.map((token, id) => [id, token])), new Set(special), buildDecoder(decoder))
    return decodeIds(table, tokens.map((_, id) => id), skip)
  }

  // The vectors of the Rust library's ByteFallback tests, and what its String::from_utf8 rule implies.
  it.each([
    [['Hey', '▁friend!'], 'Hey friend!'],
    [['<0x61>'], 'a'],
    [['<0xE5>'], '\ufffd'],
    [['<0xE5>', '<0x8f>'], '\ufffd\ufffd'],
    [['<0xE5>', '<0x8f>', '<0xab>'], '叫'],
    [['<0xE5>', '<0x8f>', '<0xab>', 'a'], '叫a'],
    [['<0xE5>', '<0x8f>', 'a'], '\ufffd\ufffda'],
    [['<0x61>', '<0xE5>', '<0x62>'], '\ufffd\ufffd\ufffd'],
    [['<0xEF>', '<0xBB>', '<0xBF>', 'a'], '\ufeffa'],
    [['<0xG1>', '<0x6>', '<0x061>', '<0x1g>'], '<0xG1><0x6><0x061><0x1g>'],
  ])('byte fallback: %j', (tokens, text) => {
    expect(decode(GEMMA, tokens)).toBe(text)
  })

  it('strips one leading space of the whole text for Llama 2', () => {
    expect(decode(LLAMA2, ['▁', '▁Hey', '▁you'])).toBe(' Hey you')
    expect(decode(LLAMA2, ['Hey'])).toBe('Hey')
    expect(decode(LLAMA2, ['<0x20>', 'x'])).toBe('x')
  })

  it('byte level: joins bytes over tokens and replaces invalid ones', () => {
    expect(decode({ type: 'ByteLevel' }, ['Hello', 'Ġmy', 'Ġfriend'])).toBe('Hello my friend')
    expect(decode({ type: 'ByteLevel' }, ['âŃ', '¢'])).toBe('⭢')
    expect(decode({ type: 'ByteLevel' }, ['âŃ', 'a'])).toBe('\ufffda')
    expect(decode({ type: 'ByteLevel' }, ['ï»¿a'])).toBe('\ufeffa')
    // A token with a character outside the alphabet stands for itself; one inside it does not.
    expect(decode({ type: 'ByteLevel' }, ['日本', 'Ã©'])).toBe('日本é')
    expect(decode({ type: 'ByteLevel' }, ['é'])).toBe('\ufffd')
    expect(decode({ type: 'Sequence', decoders: [{ type: 'ByteLevel' }, { type: 'Fuse' }] }, ['Ġa'])).toBe(' a')
  })

  it('skips special tokens, only when asked', () => {
    expect(decode(GEMMA, ['<bos>', 'a', '<0x41>', '<eos>'], [0, 3], true)).toBe('aA')
    expect(decode(GEMMA, ['<bos>', 'a'], [0], false)).toBe('<bos>a')
    // Raw bytes on both sides of a skipped token join, as they do after the Rust library's filter.
    expect(decode(GEMMA, ['<0xC3>', '<eos>', '<0xA9>'], [1], true)).toBe('é')
  })

  it('per-token Strip comes before fallback, and only at the ends', () => {
    const strip = { type: 'Sequence', decoders: [{ type: 'Strip', content: '_', start: 2, stop: 1 }, { type: 'Fuse' }] }
    expect(decode(strip, ['___a__', '_'])).toBe('_a_')
  })

  it('tables hold bytes by id, with holes', () => {
    const table = buildTable(new Map([[3, '▁a'], [1, '<0xFF>']]), new Set(), buildDecoder(GEMMA))
    expect(bytesOf(table, 3)).toEqual(Uint8Array.of(0x20, 0x61))
    expect(bytesOf(table, 1)).toEqual(Uint8Array.of(0xff))
    expect(bytesOf(table, 0)).toEqual(new Uint8Array(0))
    expect(decodeIds(table, [0, 1, 2, 3, 99], false)).toBe('\ufffd a')
    bytesOf(table, 3)[0] = 0
    expect(bytesOf(table, 3)[0]).toBe(0x20)
  })

  it('refuses ids that are not whole numbers', async () => {
    const table = buildTable(new Map([[0, 'a']]), new Set(), buildDecoder(GEMMA))
    for (const id of [-1, 0.5, NaN, Infinity]) await octetError(() => decodeIds(table, [id], false), 'INVALID_ARGUMENT')
    await octetError(() => bytesOf(table, -1), 'INVALID_ARGUMENT')
  })

  it('refuses chains that it cannot run exactly', async () => {
    await refused(() => buildDecoder(null))
    await refused(() => buildDecoder({ type: 'WordPiece' }))
    await refused(() => buildDecoder({ type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Replace', pattern: { String: 'a' }, content: 'b' }] }))
    await refused(() => buildDecoder({ type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'ByteFallback' }] }))
    await refused(() => buildDecoder({ type: 'Sequence', decoders: [{ type: 'ByteLevel' }, { type: 'Strip', content: ' ', start: 1, stop: 0 }] }))
    await refused(() => buildDecoder({ type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'Strip', content: ' ', start: 1e9, stop: 0 }] }))
  })

  it('the byte alphabet is a bijection', () => {
    expect(BYTE_OF_CHAR.size).toBe(256)
    expect(new Set(BYTE_OF_CHAR.values()).size).toBe(256)
    expect([...BYTE_OF_CHAR].filter(([, byte]) => byte === 0x20 || byte === 0x0a || byte === 0xad).map(([char]) => char)).toEqual(['Ċ', 'Ġ', 'Ń'])
    expect(byteLevelBytes('Ġa')).toEqual(Uint8Array.of(0x20, 0x61))
    expect(fallbackByte('<0x0A>')).toBe(10)
    expect(fallbackByte('<0x0A>\n')).toBe(null)
  })
})
