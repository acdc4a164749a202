import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import type { DeviceOps } from './engine/device-ops.js'
import { generateTokens, type GenerateTokensOptions, type TokenEvent } from './generate.js'
import { FakeModel, hashedLogits, type FakeOptions } from './testing/fake-model.test.helper.js'
import { FakeTokenizer, PIECES } from './testing/fake-tokenizer.test.helper.js'
import { referenceBeams, referenceRow } from './testing/reference.test.helper.js'
import { tinyLlama } from './testing/tiny-llama.test.helper.js'

vi.mock('./engine/kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

const PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]

async function run(options: GenerateTokensOptions, fake: FakeOptions = {}) {
  const fakeModel = new FakeModel(fake)
  const output = await generateTokens(fakeModel.model, options)
  expect(fakeModel.released).toBe(true)
  expect(fakeModel.caches.every((c) => c.disposed)).toBe(true)
  return { output, fake: fakeModel }
}

async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(() => expect.unreachable(), (error: unknown) => error)
}

describe('greedy decoding', () => {
  it.each([false, true])('gives every row of a ragged batch what it would have alone (cache order reversed: %s)', async (reversed) => {
    const { output, fake } = await run({ inputIds: PROMPTS, maxNewTokens: 6, padTokenId: 0 }, { reversed })
    const want = PROMPTS.map((p) => referenceRow(fake.logitsOf, p, { maxNewTokens: 6 }))
    expect(output.tokens).toEqual(want)
    expect(output.sequences).toEqual([
      [3, 4, 5, 6, 7, ...want[0]!], [0, 0, 0, 0, 8, ...want[1]!], [0, 0, 9, 10, 11, ...want[2]!],
    ])
    expect(output.finishReasons).toEqual(['length', 'length', 'length'])
    expect(output.usage).toEqual({ promptTokens: 9, completionTokens: 18, totalTokens: 27 })
    expect(output.scores).toBeUndefined()
  })

  it('runs one packed prefill and then one token a row; the last token is never fed', async () => {
    const { fake } = await run({ inputIds: PROMPTS, maxNewTokens: 4 })
    expect(fake.steps).toEqual([
      { tokens: 9, rows: 3, logits: 'last' }, { tokens: 3, rows: 3, logits: 'last' }, { tokens: 3, rows: 3, logits: 'last' }, { tokens: 3, rows: 3, logits: 'last' },
    ])
    expect(fake.caches[0]!.limits).toMatchObject({ maxBatchSize: 3, maxSequenceLength: 8 })
    expect(fake.opCalls).toEqual(['argmax', 'argmax', 'argmax', 'argmax'])
  })

  it('takes left pads, right pads and pads in the middle by the mask, whatever their id', async () => {
    const { output, fake } = await run({
      inputIds: [[-7, -7, 3, 4], [3, 4, 99, 99], [3, -1, -1, 4], Int32Array.of(0, 0, 3, 4)],
      attentionMask: [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1], Uint8Array.of(0, 0, 1, 1)],
      maxNewTokens: 3,
    })
    const want = referenceRow(fake.logitsOf, [3, 4], { maxNewTokens: 3 })
    expect(output.sequences).toEqual([[-7, -7, 3, 4, ...want], [99, 99, 3, 4, ...want], [3, -1, -1, 4, ...want], [0, 0, 3, 4, ...want]])
    expect(output.usage.promptTokens).toBe(8)
  })

  it('reads one row without a batch axis', async () => {
    const { output, fake } = await run({ inputIds: [0, 3, 4], attentionMask: [0, 1, 1], maxNewTokens: 2 })
    expect(output.tokens).toEqual([referenceRow(fake.logitsOf, [3, 4], { maxNewTokens: 2 })])
  })

  it('infers the mask from the pad id only where that is no EOS', async () => {
    const inputIds = [[0, 0, 3, 4], [5, 6, 7, 8]]
    const inferred = await run({ inputIds, maxNewTokens: 3, padTokenId: 0 })
    expect(inferred.output.tokens[0]).toEqual(referenceRow(inferred.fake.logitsOf, [3, 4], { maxNewTokens: 3 }))
    for (const options of [{ padTokenId: 0, eosTokenId: [0, 22], ignoreEos: true }, {}]) {
      const plain = await run({ inputIds, maxNewTokens: 3, ...options })
      expect(plain.output.tokens[0]).toEqual(referenceRow(plain.fake.logitsOf, [0, 0, 3, 4], { maxNewTokens: 3 }))
    }
  })

  it('counts lengths as transformers does: maxNewTokens over maxLength, pads in maxLength, 20 by default', async () => {
    const count = async (options: Partial<GenerateTokensOptions>, fake: FakeOptions = {}): Promise<number> =>
      (await run({ inputIds: [[0, 3, 4]], attentionMask: [[0, 1, 1]], ...options }, fake)).output.tokens[0]!.length
    expect(await count({ maxLength: 5 })).toBe(2)
    expect(await count({ maxLength: 5, maxNewTokens: 7 })).toBe(7)
    expect(await count({})).toBe(20)
    expect(await count({}, { maxPositions: 6 })).toBe(4)
    expect(await count({ modelGenerationConfig: { maxLength: 9 } })).toBe(6)
  })

  it("gives te_gemma's shape when the prefill token does not count", async () => {
    const { output } = await run({ inputIds: [[3, 4], [5, 6]], maxNewTokens: 3, countPrefillToken: false })
    expect(output.sequences.map((s) => s.length)).toEqual([6, 6])
    const fake = new FakeModel()
    const first = referenceRow(fake.logitsOf, [3, 4], { maxNewTokens: 1 })
    const stopped = await run({ inputIds: [[3, 4]], maxNewTokens: 3, countPrefillToken: false, eosTokenId: first, padTokenId: 7 })
    expect(stopped.output.sequences).toEqual([[3, 4, ...first, 7, 7, 7]])
  })
})

/** Logits that make row [a] count up from a, one a token. */
const counting = (vocabSize: number) => (ids: readonly number[]) => {
  const row = new Float32Array(vocabSize)
  row[(ids.at(-1)! + 1) % vocabSize] = 5
  return row
}

describe('stopping', () => {
  const fake = { logitsOf: counting(23) }

  it('fills finished rows with pads and takes them out of the batch', async () => {
    const options = { inputIds: [[3], [8], [5]], maxNewTokens: 6, eosTokenId: [6, 10] }
    const { output, fake: model } = await run({ ...options, padTokenId: 0 }, fake)
    expect(output.sequences).toEqual([[3, 4, 5, 6, 0, 0, 0], [8, 9, 10, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0, 0]].map((r) => r.slice(0, 4)))
    expect(output.tokens).toEqual([[4, 5, 6], [9, 10], [6]])
    expect(output.finishReasons).toEqual(['eos', 'eos', 'eos'])
    expect(model.steps.map((s) => s.rows)).toEqual([3, 2, 1])
    const noPad = await run(options, fake)
    expect(noPad.output.sequences[2]).toEqual([5, 6, 6, 6])
  })

  it('goes on after EOS when told to', async () => {
    const { output } = await run({ inputIds: [[3]], maxNewTokens: 5, eosTokenId: 4, ignoreEos: true }, fake)
    expect(output.tokens).toEqual([[4, 5, 6, 7, 8]])
  })

  it("knows the model's own EOS ids where no source names any", async () => {
    const { output } = await run({ inputIds: [[3]], maxNewTokens: 5 }, { ...fake, eosTokenIds: [9, 5] })
    expect(output.tokens).toEqual([[4, 5]])
  })

  it('holds EOS back for minNewTokens', async () => {
    const { output } = await run({ inputIds: [[3]], maxNewTokens: 5, eosTokenId: 5, minNewTokens: 3 }, fake)
    expect(output.tokens[0]!.indexOf(5)).toBe(-1)
    expect(output.tokens[0]).toHaveLength(5)
  })

  it('stops at a string, keeps it, and says which', async () => {
    const tokenizer = new FakeTokenizer()
    const { output } = await run({ inputIds: [[17]], maxNewTokens: 9, stopStrings: ['ENDxEND'], tokenizer }, { logitsOf: counting(PIECES.length), vocabSize: PIECES.length })
    expect(output.tokens).toEqual([[18, 19, 20, 21]])
    expect(output).toMatchObject({ finishReasons: ['stop'], stopStrings: ['ENDxEND'] })
  })

  it('lets a stop string begin in the prompt, as transformers does', async () => {
    const { output } = await run({ inputIds: [[19, 20]], maxNewTokens: 9, stopStrings: ['ENDxEND'], tokenizer: new FakeTokenizer() }, { logitsOf: counting(PIECES.length), vocabSize: PIECES.length })
    expect(output.tokens).toEqual([[21]])
  })

  it('asks the criteria with the row as processors see it', async () => {
    const rows: number[][] = []
    const { output } = await run({
      inputIds: [[0, 3]], attentionMask: [[0, 1]], maxNewTokens: 9,
      stoppingCriteria: [({ ids, promptLength }) => { rows.push([...ids]); return ids.length - promptLength === 2 }],
    }, fake)
    expect(output.finishReasons).toEqual(['criterion'])
    expect(rows).toEqual([[0, 3, 4], [0, 3, 4, 5]])
  })

  it('ends in time, with at least one token', async () => {
    let now = 0
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => (now += 100))
    try {
      const { output } = await run({ inputIds: [[3]], maxNewTokens: 2000, maxTime: 3 }, fake)
      expect(output.finishReasons).toEqual(['time'])
      expect(output.tokens[0]!.length).toBeGreaterThan(1)
      expect(output.tokens[0]!.length).toBeLessThan(40)
    } finally {
      clock.mockRestore()
    }
  })
})

describe('sampling', () => {
  it('repeats for a seed, differs for another, and tells the seed it drew', async () => {
    const options = { inputIds: PROMPTS, maxNewTokens: 8, doSample: true, temperature: 3 }
    const tokens = async (seed?: number) => (await run({ ...options, ...(seed === undefined ? {} : { seed }) })).output
    expect((await tokens(1)).tokens).toEqual((await tokens(1)).tokens)
    expect((await tokens(1)).tokens).not.toEqual((await tokens(2)).tokens)
    const free = await tokens()
    expect((await tokens(free.seed)).tokens).toEqual(free.tokens)
  })

  it('draws every returned sequence for itself', async () => {
    const { output, fake } = await run({ inputIds: [[3, 4], [5]], maxNewTokens: 6, doSample: true, temperature: 3, topK: 0, seed: 5, numReturnSequences: 3 })
    const want = [0, 1, 2, 3, 4, 5].map((sequence) =>
      referenceRow(fake.logitsOf, sequence < 3 ? [3, 4] : [5], { maxNewTokens: 6, doSample: true, temperature: 3, topK: 0, seed: 5, sequence }))
    expect(output.tokens).toEqual(want)
    expect(output.sequences.map((s) => s.slice(0, 2))).toEqual([[3, 4], [3, 4], [3, 4], [5, 5], [5, 5], [5, 5]].map((p, i) => (i < 3 ? p : [0, 5])))
    expect(new Set(want.map(String)).size).toBe(6)
  })

  it('chooses the same token on the host as the device would', async () => {
    const options = { inputIds: PROMPTS, maxNewTokens: 8, doSample: true, temperature: 2, topK: 9, topP: 0.9, minP: 0.05, seed: 3 }
    const device = await run(options)
    const host = await run({ ...options, logitsProcessors: [() => {}] })
    expect(device.fake.opCalls.every((op) => op === 'sample')).toBe(true)
    expect(host.fake.opCalls).toEqual([])
    expect(host.output.tokens).toEqual(device.output.tokens)
  })
})

describe('batching', () => {
  const requests = fc.array(fc.array(fc.integer({ min: 2, max: 22 }), { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 6 })
  const modes = fc.constantFrom<Partial<GenerateTokensOptions>>(
    {}, { doSample: true, temperature: 2 }, { doSample: true, temperature: 2, repetitionPenalty: 1.3 }, { noRepeatNgramSize: 2 }, { numBeams: 3 },
    { numBeams: 2, doSample: true, temperature: 2, numReturnSequences: 2 }, { numBeams: 4, lengthPenalty: 0, earlyStopping: true },
  )

  it('gives a row the same tokens whatever its batch-mates, its place, the chunks, the pages and the order of the cache', async () => {
    await fc.assert(fc.asyncProperty(requests, modes, fc.boolean(), fc.option(fc.integer({ min: 1, max: 12 })), fc.boolean(), async (inputIds, mode, reversed, prefillChunkSize, paged) => {
      const common = { maxNewTokens: 7, eosTokenId: [0, 1], seed: 11, ...mode }
      const beams = mode.numBeams ?? 1
      const kvCache = paged ? { isPaged: true, pageSize: 4, totalNumPages: 4 * beams + 2 } : { maxBatchSize: beams * 2 + 1 }
      const { output } = await run({ ...common, inputIds, kvCache, ...(prefillChunkSize === null ? {} : { prefillChunkSize }) }, { reversed })
      const perPrompt = mode.numReturnSequences ?? 1
      for (const [b, prompt] of inputIds.entries()) {
        const alone = await run({ ...common, inputIds: [prompt], sequenceIds: [b] })
        expect(output.tokens.slice(b * perPrompt, (b + 1) * perPrompt)).toEqual(alone.output.tokens)
        expect(output.scores?.slice(b * perPrompt, (b + 1) * perPrompt)).toEqual(alone.output.scores)
      }
    }), { numRuns: 120 })
  })

  it('spends at most the chunk on prompts in a step, and asks for logits only where a prompt ends', async () => {
    const { fake } = await run({ inputIds: [[3, 4, 5, 6, 7], [8, 9, 10]], maxNewTokens: 3, prefillChunkSize: 3 })
    expect(fake.steps).toEqual([
      { tokens: 3, rows: 1, logits: 'none' }, { tokens: 3, rows: 2, logits: 'last' }, { tokens: 3, rows: 2, logits: 'last' },
      { tokens: 2, rows: 2, logits: 'last' }, { tokens: 1, rows: 1, logits: 'last' },
    ])
  })

  it('lets requests wait for rows', async () => {
    const { output, fake } = await run({ inputIds: [[3], [4], [5], [6]], maxNewTokens: 2, kvCache: { maxBatchSize: 3 } })
    expect(fake.steps.map((s) => s.rows)).toEqual([3, 3, 1, 1])
    expect(output.tokens).toEqual([[3], [4], [5], [6]].map((p) => referenceRow(fake.logitsOf, p, { maxNewTokens: 2 })))
  })
})

describe('beam search', () => {
  it('gives what each prompt would have alone, with its scores, best first', async () => {
    const options = { maxNewTokens: 6, numBeams: 4, numReturnSequences: 3, eosTokenId: [2, 7] }
    const { output, fake } = await run({ ...options, inputIds: PROMPTS })
    const want = PROMPTS.flatMap((p) => referenceBeams(fake.logitsOf, p, options))
    expect(output.tokens).toEqual(want.map((w) => w.tokens))
    expect(output.scores).toEqual(want.map((w) => w.score))
    expect(output.finishReasons).toEqual(want.map((w) => w.stop!.reason))
    expect(output.scores![0]).toBeGreaterThan(output.scores![1]!)
    expect(fake.caches[0]!.reorders).toBeGreaterThan(0)
  })

  it('computes the prompt once, then a row a beam', async () => {
    const { fake } = await run({ inputIds: [[3, 4, 5]], maxNewTokens: 3, numBeams: 4 })
    expect(fake.steps.map((s) => s.tokens)).toEqual([3, 4, 4])
    expect(fake.caches[0]!.limits).toMatchObject({ maxBatchSize: 4, maxSequenceLength: 5 })
  })

  it('fills with the pad id, and with the first EOS where that is 0, as transformers does', async () => {
    const logitsOf = counting(23)
    const options = { inputIds: [[3], [14]], maxNewTokens: 5, numBeams: 2, eosTokenId: [5, 20] }
    const filled = async (padTokenId?: number) => (await run({ ...options, ...(padTokenId === undefined ? {} : { padTokenId }) }, { logitsOf })).output.sequences[0]!.slice(3)
    expect(await filled(9)).toEqual([9, 9, 9])
    expect(await filled(0)).toEqual([5, 5, 5])
    expect(await filled()).toEqual([5, 5, 5])
  })

  it('runs processors on log-probabilities and stops beams at strings and criteria', async () => {
    const seen: number[] = []
    const { output } = await run({
      inputIds: [[17]], maxNewTokens: 9, numBeams: 2, stopStrings: 'ENDx', tokenizer: new FakeTokenizer(),
      logitsProcessors: [(scores) => { seen.push(Math.max(...scores)) }],
    }, { logitsOf: counting(PIECES.length), vocabSize: PIECES.length })
    expect(Math.max(...seen)).toBeLessThanOrEqual(0)
    expect(output.tokens[0]).toEqual([18, 19, 20])
    expect(output.stopStrings).toEqual(['ENDx'])
    const stopped = await run({ inputIds: [[3]], maxNewTokens: 9, numBeams: 2, stoppingCriteria: [({ ids }) => ids.length >= 4] })
    expect(stopped.output.finishReasons).toEqual(['criterion'])
    expect(stopped.output.tokens[0]).toHaveLength(3)
  })

  it('tells the tokens of the finished beams at the end', async () => {
    const events: TokenEvent[] = []
    const { output } = await run({ inputIds: [[3], [4]], maxNewTokens: 3, numBeams: 2, numReturnSequences: 2, onTokens: (e) => { events.push(...e) } })
    expect(output.tokens.flatMap((tokens, index) => tokens.map((token) => ({ index, token })))).toEqual(events)
  })
})

describe('transformers on a Llama of 16 words', () => {
  const fake = { vocabSize: 16, logitsOf: tinyLlama }
  const inputIds = [[2, 5, 7, 3, 11, 4]]

  it('has its logits, its greedy tokens and its best beam', async () => {
    const logits = [0.467606, -0.456564, 0.430507, -0.390292]
    logits.forEach((want, i) => expect(tinyLlama(inputIds[0]!)[i]).toBeCloseTo(want, 5))
    expect((await run({ inputIds, maxNewTokens: 5 }, fake)).output.tokens).toEqual([[0, 13, 7, 14, 10]])
    const { output } = await run({ inputIds, maxNewTokens: 5, numBeams: 3 }, fake)
    expect(output.tokens).toEqual([[15, 11, 3, 14, 10]])
    expect(output.scores![0]).toBeCloseTo(-2.286361, 5)
  })
})

describe('refusals, before anything runs', () => {
  it.each<[string, string, GenerateTokensOptions]>([
    ['CONTEXT_TOO_LONG', 'prompt 1', { inputIds: [[3], [3, 4, 5]], maxNewTokens: 8 }],
    ['CONTEXT_TOO_LONG', 'prompt 0', { inputIds: [[3, 4, 5]], maxNewTokens: 7, countPrefillToken: false }],
    ['CONTEXT_TOO_LONG', 'prompt 0', { inputIds: [Array<number>(10).fill(3)] }],
    ['CONTEXT_TOO_LONG', 'numBeams', { inputIds: [[3]], numBeams: 3, kvCache: { maxBatchSize: 2 } }],
    ['CONTEXT_TOO_LONG', 'pages', { inputIds: [[3]], maxNewTokens: 9, kvCache: { isPaged: true, pageSize: 2, totalNumPages: 3 } }],
    ['INVALID_ARGUMENT', 'maxLength', { inputIds: [[3, 4, 5]], maxLength: 3 }],
    ['INVALID_ARGUMENT', 'inputIds', { inputIds: [] }],
    ['INVALID_ARGUMENT', 'inputIds[1]', { inputIds: [[3], []] }],
    ['INVALID_ARGUMENT', 'inputIds[0]', { inputIds: [[3]], attentionMask: [[0]] }],
    ['INVALID_ARGUMENT', 'inputIds[0][1]', { inputIds: [[3, 23]] }],
    ['INVALID_ARGUMENT', 'inputIds[0][0]', { inputIds: [[-1]] }],
    ['INVALID_ARGUMENT', 'inputIds[0][0]', { inputIds: [[1.5]] }],
    ['INVALID_ARGUMENT', 'attentionMask', { inputIds: [[3], [4]], attentionMask: [[1]] }],
    ['INVALID_ARGUMENT', 'attentionMask[0]', { inputIds: [[3]], attentionMask: [[1, 1]] }],
    ['INVALID_ARGUMENT', 'attentionMask[0][0]', { inputIds: [[3]], attentionMask: [[2]] }],
    ['INVALID_ARGUMENT', 'seed', { inputIds: [[3]], seed: -1 }],
    ['INVALID_ARGUMENT', 'sequenceIds', { inputIds: [[3]], sequenceIds: [0, 1] }],
    ['INVALID_ARGUMENT', 'sequenceIds', { inputIds: [[3]], sequenceIds: [2 ** 32] }],
    ['INVALID_ARGUMENT', 'stopStrings', { inputIds: [[3]], stopStrings: 'x' }],
    ['INVALID_ARGUMENT', 'max_new_tokens', { inputIds: [[3]], max_new_tokens: 3 } as unknown as GenerateTokensOptions],
    ['INVALID_ARGUMENT', 'temprature', { inputIds: [[3]], temprature: 3 } as unknown as GenerateTokensOptions],
  ])('%s at %s', async (code, argument, options) => {
    const fake = new FakeModel({ maxPositions: 10 })
    expect(await errorOf(generateTokens(fake.model, options))).toMatchObject({ code, argument })
    expect(fake.steps).toEqual([])
    expect(fake.released).toBe(true)
  })

  it('says how to write an option that is spelt as in Python', async () => {
    const fake = new FakeModel()
    const error = await errorOf(generateTokens(fake.model, { inputIds: [[3]], max_new_tokens: 3 } as unknown as GenerateTokensOptions))
    expect(error).toMatchObject({ hint: 'write maxNewTokens' })
  })

  it('fills the positions to the last one', async () => {
    expect((await run({ inputIds: [[3, 4, 5]], maxNewTokens: 7 }, { maxPositions: 10 })).output.tokens[0]).toHaveLength(7)
  })
})

describe('a run that is cut short', () => {
  it.each([{}, { numBeams: 3 }, { doSample: true }, { prefillChunkSize: 2 }])('throws the reason unchanged at any step and frees every row: %o', async (mode) => {
    for (let at = 0; at < 7; at++) {
      const reason = { why: at }
      const controller = new AbortController()
      const fake = new FakeModel({ onStep: (step) => { if (step === at) controller.abort(reason) } })
      const promise = generateTokens(fake.model, { inputIds: PROMPTS, maxNewTokens: 9, signal: controller.signal, ...mode })
      expect(await errorOf(promise)).toBe(reason)
      expect(fake.steps).toHaveLength(at + 1)
      expect(fake.released).toBe(true)
      expect(fake.caches[0]!.disposed).toBe(true)
    }
  })

  it('does not begin when the signal has aborted before', async () => {
    const fake = new FakeModel()
    expect(await errorOf(generateTokens(fake.model, { inputIds: PROMPTS, signal: AbortSignal.abort('no') }))).toBe('no')
    expect(fake.caches).toEqual([])
  })

  it('hears an abort that a timer brings: the event loop runs between steps', async () => {
    const fake = new FakeModel({ maxPositions: 1e9, logitsOf: counting(23) })
    const controller = new AbortController()
    setTimeout(() => controller.abort('timer'), 5)
    expect(await errorOf(generateTokens(fake.model, { inputIds: [[3]], maxNewTokens: 1e8, signal: controller.signal }))).toBe('timer')
    expect(fake.released).toBe(true)
  })

  it('passes on what the model, a processor, a criterion or a listener throws, and frees every row', async () => {
    const boom = new Error('boom')
    const fail = (): never => { throw boom }
    const cases: [Partial<GenerateTokensOptions>, FakeOptions][] = [
      [{}, { onStep: (step) => { if (step === 2) fail() } }],
      [{ logitsProcessors: [fail] }, {}],
      [{ stoppingCriteria: [fail] }, {}],
      [{ stoppingCriteria: [fail], numBeams: 2 }, {}],
      [{ onTokens: fail }, {}],
      [{ onTokens: () => Promise.reject(boom) }, {}],
    ]
    for (const [options, fakeOptions] of cases) {
      const fake = new FakeModel(fakeOptions)
      expect(await errorOf(generateTokens(fake.model, { inputIds: PROMPTS, maxNewTokens: 5, ...options }))).toBe(boom)
      expect(fake.released).toBe(true)
      expect(fake.caches[0]!.disposed).toBe(true)
    }
  })

  it('refuses processors that are asynchronous or leave no token', async () => {
    const asynchronous = async (): Promise<void> => {}
    for (const processor of [asynchronous, (scores: Float32Array) => { scores.fill(-Infinity) }]) {
      for (const mode of [{}, { numBeams: 2 }, { doSample: true }]) {
        const error = errorOf(generateTokens(new FakeModel().model, { inputIds: [[3]], logitsProcessors: [processor], ...mode }))
        expect(await error).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'logitsProcessors' })
      }
    }
  })
})

describe('what it tells', () => {
  it('hands over the tokens of each step in row order and waits for the listener', async () => {
    const steps: TokenEvent[][] = []
    let busy = false
    const { output, fake } = await run({
      inputIds: PROMPTS, maxNewTokens: 3,
      onTokens: async (events) => {
        expect(busy).toBe(false)
        busy = true
        await new Promise((resolve) => setTimeout(resolve, 1))
        steps.push([...events])
        busy = false
      },
    })
    expect(steps).toHaveLength(fake.steps.length)
    expect(steps.map((s) => s.map((e) => e.index))).toEqual([[0, 1, 2], [0, 1, 2], [0, 1, 2]])
    expect(output.tokens).toEqual([0, 1, 2].map((index) => steps.map((s) => s[index]!.token)))
  })

  it('measures prefill and decode apart', async () => {
    let now = 0
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now)
    try {
      const { output } = await run({ inputIds: [[3, 4, 5, 6], [7, 8]], maxNewTokens: 5 }, { onStep: (step) => { now += step === 0 ? 3000 : 500 } })
      expect(output.timings).toEqual({ prefill_s: 3, decode_s: 2, prefill_tokens_per_s: 2, tokens_per_s: 4 })
    } finally {
      clock.mockRestore()
    }
  })

  it('shows pads to processors, as transformers does', async () => {
    const logits = hashedLogits(23)
    const penalised = await run({ inputIds: [[0, 3, 4]], attentionMask: [[0, 1, 1]], maxNewTokens: 6, repetitionPenalty: 5 })
    expect(penalised.output.tokens[0]).toEqual(referenceRow(logits, [3, 4], { maxNewTokens: 6, repetitionPenalty: 5 }, [0, 3, 4]))
  })
})
