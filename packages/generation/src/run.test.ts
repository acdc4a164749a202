import type { ChatMessage } from '@octet-llm/core'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { DeviceOps } from './engine/device-ops.js'
import { createTextRun, type TextRunOptions } from './text-run.js'
import type { GenerationRun } from './run.js'
import { FakeModel, type FakeOptions } from './testing/fake-model.test.helper.js'
import { FakeTokenizer, PIECES } from './testing/fake-tokenizer.test.helper.js'
import { referenceRow } from './testing/reference.test.helper.js'

vi.mock('./engine/kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

function open(request: Partial<TextRunOptions> = {}, fakeOptions: FakeOptions = {}) {
  const fake = new FakeModel({ vocabSize: PIECES.length, ...fakeOptions })
  const tokenizer = new FakeTokenizer()
  const start = (): GenerationRun => createTextRun({
    model: fake.model, tokenizer, ...(request.messages ?? request.ids ?? request.prompt) === undefined ? { prompt: ' the king' } : {}, ...request,
    options: { maxNewTokens: 12, ...request.options },
  })
  return { fake, tokenizer, run: start() }
}

async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = []
  for await (const item of stream) out.push(item)
  return out
}
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 2))

const unhandled: unknown[] = []
const note = (reason: unknown): void => { unhandled.push(reason) }
beforeEach(() => { process.on('unhandledRejection', note) })
afterEach(async () => {
  await turn()
  process.off('unhandledRejection', note)
  expect(unhandled.splice(0)).toEqual([])
})

describe('GenerationRun', () => {
  it('is no thenable, and an async function can return it', async () => {
    const { run, fake } = open()
    expect('then' in run).toBe(false)
    const through = await (async () => run)()
    expect(through).toBe(run)
    await turn()
    expect(fake.steps).toEqual([])
  })

  it('begins only when it is read', async () => {
    const { run, fake, tokenizer } = open({ options: { stopStrings: 'zz' } })
    void run.textStream
    void run.tokenStream
    const stream = run.toReadableStream()
    await turn()
    expect(fake.caches).toEqual([])
    expect(tokenizer.asked).toEqual([])
    const reader = stream.getReader()
    await reader.read()
    expect(fake.steps.length).toBeGreaterThan(0)
    await reader.cancel()
    expect(fake.released).toBe(true)
  })

  it('streams what the result says, and the result can be asked for again and again', async () => {
    const { run, fake, tokenizer } = open({ options: { eosTokenId: 1 } })
    const text = (await collect(run.textStream)).join('')
    const result = await run.result()
    expect(await run.result()).toBe(result)
    const want = referenceRow(fake.logitsOf, [2, 3, 4], { maxNewTokens: 12, eosTokenId: [1] })
    expect(result.tokens).toEqual([want])
    expect(text).toBe(result.text)
    expect(result.text).toBe(await tokenizer.decode(want, { skipSpecialTokens: true }))
    expect(result).toMatchObject({ texts: [text], finishReason: result.finishReasons[0], usage: { promptTokens: 3 } })
    expect(fake.released).toBe(true)
    expect(fake.caches).toHaveLength(1)
  })

  it('streams tokens with the row they belong to', async () => {
    const { run } = open({ prompt: [' the', ' king'], options: { maxNewTokens: 3 } })
    const events = await collect(run.tokenStream)
    const { tokens } = await run.result()
    expect(events.map((e) => e.index)).toEqual([0, 1, 0, 1, 0, 1])
    expect([0, 1].map((row) => events.filter((e) => e.index === row).map((e) => e.token))).toEqual(tokens)
  })

  it('gives a web stream of the same text in UTF-8', async () => {
    const { run } = open()
    expect(await new Response(run.toReadableStream()).text()).toBe((await run.result()).text)
  })

  it('has one consumer', async () => {
    const open2 = async (first: (r: GenerationRun) => unknown, second: (r: GenerationRun) => unknown): Promise<void> => {
      const { run } = open()
      first(run)
      await expect((async () => second(run))()).rejects.toMatchObject({ code: 'STREAM_CONSUMED' })
      await run.result()
    }
    const text = (r: GenerationRun): unknown => r.textStream[Symbol.asyncIterator]()
    const tokens = (r: GenerationRun): unknown => r.tokenStream[Symbol.asyncIterator]()
    for (const first of [text, tokens, (r: GenerationRun) => r.toReadableStream(), (r: GenerationRun) => r.result()]) {
      for (const second of [text, tokens, (r: GenerationRun) => r.toReadableStream()]) await open2(first, second)
    }
  })

  it('refuses to mix several sequences into one text', async () => {
    for (const request of [{ prompt: [' the', ' a'] }, { prompt: ' the', options: { doSample: true, numReturnSequences: 2 } }]) {
      const { run } = open(request)
      await expect(collect(run.textStream)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'textStream' })
      expect((await run.result()).texts).toHaveLength(2)
    }
  })

  it('stops the work when the reader leaves, and the result holds what there was', async () => {
    for (const at of [1, 2, 5]) {
      const { run, fake } = open({ options: { maxNewTokens: 500 } })
      let seen = 0
      for await (const _ of run.tokenStream) if (++seen === at) break
      expect(fake.released).toBe(true)
      const { tokens, finishReason } = await run.result()
      expect(finishReason).toBe('aborted')
      expect(tokens[0]!.length).toBeGreaterThanOrEqual(at)
      expect(tokens[0]!.length).toBeLessThan(500)
      expect(tokens[0]).toEqual(referenceRow(fake.logitsOf, [2, 3, 4], { maxNewTokens: tokens[0]!.length }))
    }
  })

  it('gives nothing more to a reader that has left', async () => {
    const { run } = open()
    const iterator = run.tokenStream[Symbol.asyncIterator]()
    await iterator.next()
    await iterator.return!()
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
  })

  it('does not run at all when the reader leaves before the first read', async () => {
    const { run, fake } = open()
    await run.textStream[Symbol.asyncIterator]().return!()
    expect(fake.caches).toEqual([])
    expect(await run.result()).toMatchObject({ tokens: [[]], text: '', finishReason: 'aborted' })
    expect(fake.steps).toEqual([])
  })

  it('throws the reason of the signal unchanged, to the reader and from the result', async () => {
    const reason = { why: 'enough' }
    const controller = new AbortController()
    const { run, fake } = open({ options: { maxNewTokens: 500, signal: controller.signal } })
    const seen: unknown[] = []
    const loop = (async () => {
      for await (const event of run.tokenStream) if (seen.push(event) === 3) controller.abort(reason)
    })()
    expect(await loop.catch((error: unknown) => error)).toBe(reason)
    expect(await run.result().catch((error: unknown) => error)).toBe(reason)
    expect(fake.released).toBe(true)
    expect(seen.length).toBeGreaterThanOrEqual(3)
  })

  it('raises nothing when it is ignored, or fails after its reader has left', async () => {
    const controller = new AbortController()
    controller.abort('before')
    open({ options: { signal: controller.signal } })
    const { run } = open({}, { onStep: (step) => { if (step === 2) throw new Error('boom') } })
    const iterator = run.tokenStream[Symbol.asyncIterator]()
    await iterator.next()
    await turn()
    await iterator.return!()
    const failed = open({}, { onStep: () => { throw new Error('boom') } })
    void failed.run.textStream[Symbol.asyncIterator]().next().catch(() => undefined)
    await turn()
    await expect(failed.run.result()).rejects.toThrow('boom')
  })

  it('hands over what came before a failure, then the failure', async () => {
    const { run } = open({}, { onStep: (step) => { if (step === 3) throw new Error('boom') } })
    const seen: unknown[] = []
    await expect((async () => { for await (const e of run.tokenStream) seen.push(e) })()).rejects.toThrow('boom')
    expect(seen).toHaveLength(3)
  })
})

describe('createTextRun', () => {
  it('lays chats out by the template and adds no second BOS', async () => {
    const messages: ChatMessage[] = [{ role: 'user', content: ' the' }, { role: 'assistant', content: ' king' }]
    const { run, fake } = open({ messages, options: { maxNewTokens: 2 } })
    const { tokens, usage } = await run.result()
    expect(usage.promptTokens).toBe(4)
    expect(tokens[0]).toEqual(referenceRow(fake.logitsOf, [3, 7, 4, 2], { maxNewTokens: 2 }))
    const two = open({ messages: [messages, messages.slice(0, 1)], options: { maxNewTokens: 1 } })
    expect((await two.run.result()).tokens[1]).toEqual(referenceRow(fake.logitsOf, [3, 2], { maxNewTokens: 1 }))
  })

  it('takes ids as they are, with their mask', async () => {
    const { run, fake } = open({ ids: [[0, 5], [3, 4]], attentionMask: [[0, 1], [1, 1]], options: { maxNewTokens: 2 } })
    const { tokens, texts } = await run.result()
    expect(tokens).toEqual([[5], [3, 4]].map((p) => referenceRow(fake.logitsOf, p, { maxNewTokens: 2 })))
    expect(texts).toHaveLength(2)
    expect((await open({ ids: [5], options: { maxNewTokens: 1 } }).run.result()).tokens).toHaveLength(1)
  })

  it('keeps a pad id that the text itself holds', async () => {
    const { run, fake } = open({ prompt: ' the<pad> king', options: { maxNewTokens: 2, padTokenId: 0 } })
    expect((await run.result()).tokens[0]).toEqual(referenceRow(fake.logitsOf, [2, 3, 0, 4], { maxNewTokens: 2 }))
  })

  it('pads shorter prompts on the left', async () => {
    const { run } = open({ prompt: [' the', ' the king and'], options: { maxNewTokens: 2, padTokenId: 0 } })
    const { sequences, tokens } = await run.result()
    expect(sequences).toEqual([[0, 0, 2, 3, ...tokens[0]!], [2, 3, 4, 5, ...tokens[1]!]])
  })

  it.each<[string, object]>([
    ['prompt', {}], ['prompt', { prompt: 'a', ids: [1] }], ['prompt', { prompt: [] }], ['messages', { messages: [] }], ['ids', { ids: [] }],
    ['attentionMask', { prompt: ' a', attentionMask: [1] }], ['maxNewTokens', { prompt: ' a', options: { maxNewTokens: 0 } }],
    ['nonsense', { prompt: ' a', options: { nonsense: 1 } }],
  ])('refuses %s at once, before it is read', (argument, request) => {
    const fake = new FakeModel({ vocabSize: PIECES.length })
    expect(() => createTextRun({ model: fake.model, tokenizer: new FakeTokenizer(), ...request }))
      .toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument }) as Error)
  })

  it('gives the text of beams in one go', async () => {
    const { run } = open({ options: { numBeams: 3, maxNewTokens: 5 } })
    const deltas = await collect(run.textStream)
    const { text, scores } = await run.result()
    expect(deltas.join('')).toBe(text)
    expect(scores).toHaveLength(1)
  })
})
