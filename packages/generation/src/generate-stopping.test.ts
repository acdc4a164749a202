import { describe, expect, it, vi } from 'vitest'
import type { DeviceOps } from './engine/device-ops.js'
import { generateTokens, type GenerateTokensOptions } from './generate.js'
import { countingLogits, FakeModel, type FakeOptions } from './testing/fake-model.test.helper.js'
import { FakeTokenizer, PIECES } from './testing/fake-tokenizer.test.helper.js'
import { errorOf, PROMPTS, run } from './testing/run.test.helper.js'

vi.mock('./engine/kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

describe('stopping', () => {
  const fake = { logitsOf: countingLogits(23) }

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
    const { output } = await run({ inputIds: [[17]], maxNewTokens: 9, stopStrings: ['ENDxEND'], tokenizer }, { logitsOf: countingLogits(PIECES.length), vocabSize: PIECES.length })
    expect(output.tokens).toEqual([[18, 19, 20, 21]])
    expect(output).toMatchObject({ finishReasons: ['stop'], stopStrings: ['ENDxEND'] })
  })

  it('lets a stop string begin in the prompt, as transformers does', async () => {
    const { output } = await run({ inputIds: [[19, 20]], maxNewTokens: 9, stopStrings: ['ENDxEND'], tokenizer: new FakeTokenizer() }, { logitsOf: countingLogits(PIECES.length), vocabSize: PIECES.length })
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
    const fake = new FakeModel({ maxPositions: 1e9, logitsOf: countingLogits(23) })
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
