import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import type { DeviceOps } from './engine/device-ops.js'
import type { GenerateTokensOptions, TokenEvent } from './generate.js'
import { countingLogits } from './testing/fake-model.test.helper.js'
import { FakeTokenizer, PIECES } from './testing/fake-tokenizer.test.helper.js'
import { referenceBeams, referenceRow } from './testing/reference.test.helper.js'
import { PROMPTS, run } from './testing/run.test.helper.js'

vi.mock('./engine/kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

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
    const logitsOf = countingLogits(23)
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
    }, { logitsOf: countingLogits(PIECES.length), vocabSize: PIECES.length })
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
