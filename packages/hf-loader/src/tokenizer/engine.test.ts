/** The whole pipeline in this process, on synthetic files: order of the parts, and hostile files. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OctetError } from '@octet-llm/core'
import { decodeIds } from './decode.js'
import { Engine } from './engine.js'
import { buildModel } from './model.js'
import { addedToken, byteTokenizer, FIXTURES, makeFolder, octetError, tinyTokenizer, type Json } from './support.test-helper.js'

const load = (tokenizer: Json, config: Json = {}): Engine => Engine.load(makeFolder({ 'tokenizer.json': tokenizer, 'tokenizer_config.json': config }))
const ids = (engine: Engine, text: string, special = true): number[] => [...engine.encode(text, special)]

describe('pipeline', () => {
  it('looks for raw added tokens before normalization and for normalized ones after it', () => {
    const engine = load(
      tinyTokenizer({
        tokens: ['▁'],
        top: {
          normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
          added_tokens: [addedToken(30, 'a b'), addedToken(31, 'c d', { normalized: true }), addedToken(32, '▁e')],
        },
      }),
    )
    expect(ids(engine, 'a b')).toEqual([30])
    expect(ids(engine, 'c d')).toEqual([31])
    expect(ids(engine, 'c▁d')).toEqual([31])
    expect(ids(engine, 'a▁b')).toEqual([0, 26, 1])
    expect(ids(engine, ' e')).toEqual([26, 4])
    expect(ids(engine, '▁e')).toEqual([32])
  })

  it('lets a special token win where two are equal after normalization', () => {
    const normalizer = { type: 'Replace', pattern: { String: 'X' }, content: 'x' }
    const added = [addedToken(30, 'ax', { normalized: true }), addedToken(31, 'aX', { normalized: true, special: true })]
    expect(ids(load(tinyTokenizer({ top: { normalizer, added_tokens: added } })), 'aX')).toEqual([31])
  })

  it("prefixes Metaspace's first piece only where the text begins", () => {
    const engine = load(
      tinyTokenizer({
        tokens: ['▁'],
        top: {
          pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first' },
          added_tokens: [addedToken(30, '<s>', { special: true }), addedToken(31, 'z', { normalized: true })],
        },
      }),
    )
    expect(ids(engine, 'ab')).toEqual([26, 0, 1])
    expect(ids(engine, '<s>ab')).toEqual([30, 0, 1])
    expect(ids(engine, 'azb')).toEqual([26, 0, 25, 1])
    expect(ids(engine, 'a b')).toEqual([26, 0, 26, 1])
  })

  it('adds special tokens only when asked, and fills tables from model and added tokens', () => {
    const engine = load(byteTokenizer({ added_tokens: [addedToken(300, '<s>', { special: true })] }), { bos_token: '<s>', add_bos_token: true })
    expect(ids(engine, 'é')[0]).toBe(300)
    expect(ids(engine, 'é', false)).toHaveLength(2)
    expect(decodeIds(engine.answer.table, ids(engine, 'é'), true)).toBe('é')
    expect(decodeIds(engine.answer.table, ids(engine, 'é'), false)).toBe('<s>é')
    expect(engine.answer.table.flags).toHaveLength(301)
    expect(engine.answer.special).toEqual({ bosTokenId: 300, eosTokenId: null, padTokenId: null, unkTokenId: null })
  })

  it('passes special tokens to the template by name, messages over variables', () => {
    const dir = makeFolder({
      'tokenizer.json': tinyTokenizer({ tokens: ['<s>'] }),
      'tokenizer_config.json': { bos_token: { content: '<s>', lstrip: false }, chat_template: 'config', extra_special_tokens: { image_token: '<i>' } },
      'chat_template.jinja': '{{ bos_token }}{{ image_token }}{{ eos_token }}{{ messages[0].content }}{{ mood }}{{ documents is none }}',
    })
    const engine = Engine.load(dir)
    expect(engine.render({ messages: [{ role: 'user', content: 'hi' }], mood: '!' })).toBe('<s><i>hi!true')
    expect(engine.answer.hasChatTemplate).toBe(true)
    expect(load(tinyTokenizer()).answer.hasChatTemplate).toBe(false)
  })

  it('decodes every encodable text back (byte level)', () => {
    const engine = load(byteTokenizer({ pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false } }))
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (text) => {
        expect(decodeIds(engine.answer.table, ids(engine, text), false)).toBe(Buffer.from(text).toString())
      }),
    )
  })
})

describe('BPE against a direct transcription of its definition', () => {
  /** Merges the lowest-ranked pair, leftmost first, until none is left. */
  function reference(text: string, ranks: ReadonlyMap<string, number>): string[] {
    const parts = [...text]
    for (;;) {
      let best = Infinity
      let at = -1
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity
        if (rank < best) [best, at] = [rank, i]
      }
      if (at < 0) return parts
      parts.splice(at, 2, `${parts[at]}${parts[at + 1]}`)
    }
  }

  it('on random merges over a small alphabet', () => {
    const merges = fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 1, maxLength: 25 }).map((picks) => {
      const tokens = ['a', 'b', 'c', '🐉']
      const made = new Map<string, [string, string]>()
      for (const [i, j] of picks) {
        const pair: [string, string] = [tokens[i % tokens.length] as string, tokens[j % tokens.length] as string]
        if (pair.join('').length > 10 || made.has(pair.join(' '))) continue
        made.set(pair.join(' '), pair)
        if (!tokens.includes(pair.join(''))) tokens.push(pair.join(''))
      }
      return [...made.values()]
    })
    const text = fc.array(fc.constantFrom('a', 'b', 'c', '🐉'), { maxLength: 40 }).map((chars) => chars.join(''))
    fc.assert(
      fc.property(merges, text, (list, input) => {
        const vocab: Record<string, number> = {}
        for (const token of ['a', 'b', 'c', '🐉', ...list.map((pair) => pair.join(''))]) vocab[token] ??= Object.keys(vocab).length
        const out: number[] = []
        buildModel({ type: 'BPE', vocab, merges: list }).encode(input, out)
        const expected = reference(input, new Map(list.map((pair, rank) => [pair.join(' '), rank])))
        expect(out).toEqual(expected.map((token) => vocab[token]))
      }),
      { numRuns: 500 },
    )
  })
})

describe('hostile files', () => {
  it.each<[string, Record<string, string | Json>, string]>([
    ['no JSON', { 'tokenizer.json': '{"model":' }, 'INVALID_TOKENIZER'],
    ['empty', { 'tokenizer.json': '' }, 'INVALID_TOKENIZER'],
    ['not UTF-8', { 'tokenizer.json': Buffer.from([0x7b, 0xff, 0x7d]).toString('latin1') }, 'INVALID_TOKENIZER'],
    ['an array', { 'tokenizer.json': '[]' }, 'INVALID_TOKENIZER'],
    ['null', { 'tokenizer.json': 'null' }, 'INVALID_TOKENIZER'],
    ['deep nesting', { 'tokenizer.json': '['.repeat(200_000) + ']'.repeat(200_000) }, 'INVALID_TOKENIZER'],
    ['deep sequences', { 'tokenizer.json': nested(200_000) }, 'INVALID_TOKENIZER'],
    ['a bad regex', { 'tokenizer.json': tinyTokenizer({ top: { pre_tokenizer: { type: 'Split', pattern: { Regex: '[' }, behavior: 'Isolated' } } }) }, 'INVALID_TOKENIZER'],
    ['a config that is a list', { 'tokenizer.json': tinyTokenizer(), 'tokenizer_config.json': '[]' }, 'INVALID_TOKENIZER'],
    ['a map that is text', { 'tokenizer.json': tinyTokenizer(), 'special_tokens_map.json': '"x"' }, 'INVALID_TOKENIZER'],
    ['a template list of numbers', { 'tokenizer.json': tinyTokenizer(), 'tokenizer_config.json': { chat_template: [1] } }, 'INVALID_TEMPLATE'],
    ['nothing', {}, 'FILE_NOT_FOUND'],
  ])('%s', async (_name, files, code) => {
    await octetError(() => Engine.load(makeFolder(files)), code as 'INVALID_TOKENIZER')
  })

  it('files that are no files, or larger than any of their kind', async () => {
    const dir = makeFolder({ 'tokenizer.json': tinyTokenizer() })
    mkdirSync(join(dir, 'tokenizer_config.json'))
    expect((await octetError(() => Engine.load(dir), 'INVALID_TOKENIZER')).expected).toBe('a regular file')
    rmSync(join(dir, 'tokenizer_config.json'), { recursive: true })
    for (const [name, limit] of [['chat_template.jinja', 2 ** 22], ['special_tokens_map.json', 2 ** 24], ['tokenizer.json', 2 ** 28]] as const) {
      writeFileSync(join(dir, name), '')
      // Sparse: it takes no room on the disk.
      truncateSync(join(dir, name), limit + 1)
      expect((await octetError(() => Engine.load(dir), 'INVALID_TOKENIZER')).expected).toBe(`at most ${limit} bytes`)
      rmSync(join(dir, name))
      if (name !== 'tokenizer.json') expect(Engine.load(dir).answer.hasChatTemplate).toBe(false)
    }
  })

  it('names __proto__ and the like are ordinary tokens', () => {
    const text = JSON.stringify(tinyTokenizer({ tokens: ['hasOwnProperty', 'constructor'] })).replace('"hasOwnProperty"', '"__proto__"')
    const engine = Engine.load(makeFolder({ 'tokenizer.json': text }))
    expect(decodeIds(engine.answer.table, [26, 27], false)).toBe('__proto__constructor')
    expect(({} as Json)['polluted']).toBeUndefined()
  })

  // 10,000 cases in the slow tier.
  const runs = process.env['OCTET_SLOW'] === '1' ? 10_000 : 60
  it.each(['gemma', 'llama'])(`mutated files of fairy-%s give a tokenizer or one OctetError (${runs} cases)`, (family) => {
    const dir = mkdtempSync(join(tmpdir(), 'octet-mutant-'))
    try {
      const source = join(FIXTURES, `fairy-${family}`)
      const names = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']
      const originals = names.map((name) => readFileSync(join(source, name)))
      const mutation = fc.record({
        file: fc.nat(names.length - 1),
        // The interesting bytes lie at the two ends: structure first, merges last.
        at: fc.oneof(fc.double({ min: 0, max: 0.03, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })),
        cut: fc.nat(20),
        insert: fc.oneof(fc.uint8Array({ maxLength: 4 }), fc.constantFrom('null', '{}', '[]', '"', '1e999', '-1', ',', '\\', '{%', '}}', 'Regex').map((text) => Buffer.from(text))),
      })
      fc.assert(
        fc.property(mutation, ({ file, at, cut, insert }) => {
          names.forEach((name, i) => {
            const bytes = originals[i] as Buffer
            const begin = Math.floor(at * bytes.length)
            const mutant = i === file ? Buffer.concat([bytes.subarray(0, begin), insert, bytes.subarray(begin + cut)]) : bytes
            writeFileSync(join(dir, name), mutant)
          })
          expectOctetOrNothing(() => {
            const engine = Engine.load(dir)
            engine.encode('Once upon a time, naïve 日本 12345 <bos>', true)
            engine.render({ messages: [{ role: 'user', content: 'hi' }], add_generation_prompt: true })
          })
        }),
        { numRuns: runs },
      )
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }, 600_000)

  it('loads from a copy exactly as from the original', () => {
    const dir = makeFolder({})
    cpSync(join(FIXTURES, 'fairy-gemma', 'tokenizer.json'), join(dir, 'tokenizer.json'))
    const copy = Engine.load(dir)
    const original = Engine.load(join(FIXTURES, 'fairy-gemma'))
    expect(ids(copy, 'Once upon a time')).toEqual(ids(original, 'Once upon a time'))
  })
})

/** A normalizer of sequences in sequences; as text, since JSON.stringify would itself run out of stack. */
function nested(depth: number): string {
  const normalizer = '{"type":"Sequence","normalizers":['.repeat(depth) + '{"type":"NFC"}' + ']}'.repeat(depth)
  return JSON.stringify(tinyTokenizer()).replace('"normalizer":null', () => `"normalizer":${normalizer}`)
}

function expectOctetOrNothing(run: () => void): void {
  try {
    run()
  } catch (error) {
    if (!OctetError.is(error)) throw error
    expect(['INVALID_TOKENIZER', 'INVALID_TEMPLATE', 'FILE_NOT_FOUND']).toContain(error.code)
    expect(error.message).toMatch(/^\[\w+\] .{3,}/)
  }
}
