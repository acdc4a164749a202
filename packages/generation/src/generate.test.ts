import { describe, expect, it, vi } from 'vitest'
import type { DeviceOps } from './engine/device-ops.js'
import type { GenerateTokensOptions, TokenEvent } from './generate.js'
import { FakeModel, hashedLogits, type FakeOptions } from './testing/fake-model.test.helper.js'
import { referenceRow } from './testing/reference.test.helper.js'
import { PROMPTS, run } from './testing/run.test.helper.js'
import { tinyLlama } from './testing/tiny-llama.test.helper.js'

vi.mock('./engine/kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

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

describe('sampling', () => {
  it('repeats for a seed, differs for another, and tells the seed it drew', async () => {
    const options = { inputIds: PROMPTS, maxNewTokens: 8, doSample: true, temperature: 3 }
    const tokens = async (seed?: number) => (await run({ ...options, ...(seed === undefined ? {} : { seed }) })).output
    expect((await tokens(1)).tokens).toEqual((await tokens(1)).tokens)
    expect((await tokens(1)).tokens).not.toEqual((await tokens(2)).tokens)
    expect((await tokens(0)).seed).toBe(0)
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
