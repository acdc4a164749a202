import { openDevice, type Device } from '@octet-llm/kernels'
import { InferenceParams } from '@octet-llm/kv-cache'
import type { DecoderForCausalLM } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { GENERATION_DEFAULTS } from './config/generation-config.js'
import { bucketOf } from './engine/decode-graphs.js'
import { Engine } from './engine/engine.js'
import type { EngineHandle } from './engine/entry.js'
import type { EngineRequest } from './engine/task.js'
import { generateTokens, type GenerateTokensOptions } from './generate.js'
import { randomDecoder } from './testing/random-decoder.test.helper.js'

let device: Device
let model: DecoderForCausalLM

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
  model = randomDecoder(device)
})
afterAll(async () => {
  await model.dispose()
  await device.dispose()
})

/** Prompts of uneven lengths. */
const prompts = (count: number): number[][] => Array.from({ length: count }, (_, b) => Array.from({ length: 1 + ((b * 5) % 9) }, (_, i) => 3 + ((b * 31 + i * 7) % 90)))

/** Counts captures and how often the model is called from JavaScript. */
function watch(): { captures: () => number; steps: () => number; restore: () => void } {
  const capture = vi.spyOn(device.queue, 'capture')
  const step = vi.spyOn(model, 'step')
  return {
    captures: () => capture.mock.calls.length,
    steps: () => step.mock.calls.length,
    restore: () => {
      capture.mockRestore()
      step.mockRestore()
    },
  }
}

const MODES: readonly (readonly [string, Partial<GenerateTokensOptions>])[] = [
  ['greedy', {}],
  ['sampling', { doSample: true, temperature: 1.4, topK: 30, topP: 0.9, minP: 0.01 }],
  ['greedy, pages of 4', { kvCache: { isPaged: true, pageSize: 4 } }],
  ['sampling, several EOS ids', { doSample: true, temperature: 3, eosTokenId: [5, 17, 31, 60, 70, 80] }],
  ['a repetition penalty on the host', { repetitionPenalty: 1.4 }],
  ['a criterion', { stoppingCriteria: [({ ids, promptLength }) => ids.length - promptLength >= 7] }],
  ['more EOS ids than the device checks', { doSample: true, temperature: 3, eosTokenId: Array.from({ length: 17 }, (_, i) => 70 + i) }],
  ['bf16 cache', { kvCache: { dtype: 'bf16' } }],
]

describe('recorded decode', () => {
  it.each(MODES)('%s: the tokens of eager steps, for every bucket and window', async (_, mode) => {
    for (const rows of [1, 2, 3, 5, 8, 11]) {
      const options = { inputIds: prompts(rows), maxNewTokens: 13, seed: 11, ...mode }
      const eager = await generateTokens(model, { ...options, graphs: false })
      for (const stepsPerSync of [1, 3, 8]) {
        const recorded = await generateTokens(model, { ...options, graphs: true, stepsPerSync })
        expect(recorded.tokens).toEqual(eager.tokens)
        expect(recorded.finishReasons).toEqual(eager.finishReasons)
      }
    }
  })

  it('calls the model from JavaScript once a bucket, not once a step', async () => {
    const seen = watch()
    try {
      await generateTokens(model, { inputIds: prompts(3), maxNewTokens: 40, graphs: false })
      expect([seen.captures(), seen.steps()]).toEqual([0, 40])
      await generateTokens(model, { inputIds: prompts(3), maxNewTokens: 40 })
      // Prefill and one recording; the other capture is the choice of tokens.
      expect([seen.captures(), seen.steps() - 40]).toEqual([2, 2])
    } finally {
      seen.restore()
    }
  })

  it('stops at EOS inside a window: the token counts, nothing follows, batch-mates go on', async () => {
    const free = await generateTokens(model, { inputIds: prompts(4), maxNewTokens: 20, graphs: false })
    // An id that row 1 reaches in the middle of a window of 8, and not first of all.
    const eosTokenId = free.tokens[1]![4]!
    const eager = await generateTokens(model, { inputIds: prompts(4), maxNewTokens: 20, eosTokenId, graphs: false })
    const recorded = await generateTokens(model, { inputIds: prompts(4), maxNewTokens: 20, eosTokenId, stepsPerSync: 8 })
    expect(recorded).toMatchObject({ tokens: eager.tokens, finishReasons: eager.finishReasons, sequences: eager.sequences })
    expect(recorded.finishReasons[1]).toBe('eos')
    expect(recorded.tokens[1]!.length).toBeLessThan(8)
  })

  it('goes on past rows that end at EOS where a step costs little, as on a GPU', async () => {
    const free = await generateTokens(model, { inputIds: prompts(4), maxNewTokens: 40, graphs: false })
    const eosTokenId = [free.tokens[1]![4]!, free.tokens[2]![17]!, free.tokens[0]![30]!]
    const options = { inputIds: prompts(4), maxNewTokens: 40, eosTokenId }
    const eager = await generateTokens(model, { ...options, graphs: false })
    const begun = vi.spyOn(InferenceParams.prototype, 'beginDecode')
    Object.defineProperty(device, 'kind', { value: 'cuda', configurable: true, writable: true })
    try {
      for (const stepsPerSync of [1, 3, 8]) {
        begun.mockClear()
        const recorded = await generateTokens(model, { ...options, stepsPerSync })
        expect(recorded).toMatchObject({ tokens: eager.tokens, finishReasons: eager.finishReasons })
        // One window while its width holds: a new one only once half of its rows have ended.
        expect(begun.mock.calls.map(([, width]) => width)).toEqual([...new Set(begun.mock.calls.map(([, width]) => width))])
      }
      expect(eager.finishReasons).toContain('eos')
    } finally {
      Object.defineProperty(device, 'kind', { value: 'cpu', configurable: true, writable: true })
      begun.mockRestore()
    }
  })

  it('gives tokens one step at a time, whatever the window', async () => {
    const bursts: number[] = []
    await generateTokens(model, { inputIds: prompts(2), maxNewTokens: 12, stepsPerSync: 8, onTokens: (events) => void bursts.push(events.length) })
    expect(bursts).toEqual(Array.from({ length: 12 }, () => 2))
  })

  it('aborts inside a window with the reason unchanged, and the model works on', async () => {
    const controller = new AbortController()
    let tokens = 0
    const cut = generateTokens(model, {
      inputIds: prompts(3), maxNewTokens: 50, stepsPerSync: 8, signal: controller.signal,
      onTokens: (events) => { if ((tokens += events.length) >= 15) controller.abort('cut') },
    })
    await expect(cut).rejects.toBe('cut')
    expect(tokens).toBe(15)
    const [eager, recorded] = await Promise.all([false, true].map((graphs) => generateTokens(model, { inputIds: prompts(3), maxNewTokens: 9, graphs })))
    expect(recorded!.tokens).toEqual(eager!.tokens)
  })

  it.each([0, 1.5, -1, NaN])('refuses %s steps at once', async (stepsPerSync) => {
    await expect(generateTokens(model, { inputIds: prompts(1), stepsPerSync })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'stepsPerSync' })
  })

  it('leaks nothing, however often it records', async () => {
    const round = async (): Promise<unknown> => {
      for (const mode of [{}, { doSample: true, temperature: 2 }, { repetitionPenalty: 2 }]) {
        await generateTokens(model, { inputIds: prompts(5), maxNewTokens: 12, ...mode })
      }
      await device.synchronize()
      const { allocatedBytes, allocations } = device.memoryStats()
      return { allocatedBytes, allocations }
    }
    await round()
    const before = await round()
    for (let i = 0; i < 3; i++) expect(await round()).toEqual(before)
  })
})

describe('the engine with recorded steps', () => {
  const config = GENERATION_DEFAULTS
  const request = (b: number, over: Partial<EngineRequest> = {}): EngineRequest => ({ tokens: prompts(b + 1)[b]!, config, maxNewTokens: 14 + b, eosTokenIds: [], seed: 5, sequence: b, ...over })
  const sampled = (b: number): EngineRequest => request(b, { config: { ...config, doSample: true, temperature: 1 + b / 4, topK: 0 }, seed: b })

  /** Requests alone, each by an eager engine. */
  async function alone(requests: readonly EngineRequest[]): Promise<(readonly number[])[]> {
    const all: (readonly number[])[] = []
    for (const r of requests) {
      const engine = new Engine(model, { maxBatchSize: 1, maxSequenceLength: 64, graphs: false })
      const handle = engine.add(r)
      while (await engine.step());
      all.push(handle.outcomes[0]!.tokens)
      engine.dispose()
    }
    return all
  }

  it.each([1, 4, 8])('serves requests that arrive and leave in the middle of windows of %d', async (stepsPerSync) => {
    // Greedy ones, sampled ones of their own settings (more than a window serves), one that the host decides.
    const requests = [request(0), sampled(1), request(2), sampled(3), sampled(4), request(5, { config: { ...config, repetitionPenalty: 1.2 } }), sampled(6), sampled(7), request(8, { maxNewTokens: 3 })]
    const want = await alone(requests)
    const engine = new Engine(model, { maxBatchSize: 6, maxSequenceLength: 40, isPaged: true, pageSize: 4, totalNumPages: 40, stepsPerSync })
    const handles: EngineHandle[] = [engine.add(requests[0]!), engine.add(requests[1]!)]
    const gone = engine.add(request(3, { maxNewTokens: 30 }))
    for (let i = 0, more = true; more; i++) {
      more = await engine.step()
      if (i % 3 === 1 && handles.length < requests.length) handles.push(engine.add(requests[handles.length]!))
      if (i === 6) engine.remove(gone)
      more ||= handles.length < requests.length
    }
    handles.forEach((handle, b) => expect(handle.outcomes[0]!.tokens).toEqual(want[b]))
    expect(gone.outcomes[0]).toMatchObject({ finishReason: 'aborted' })
    expect(gone.outcomes[0]!.tokens).toEqual((await alone([request(3, { maxNewTokens: 30 })]))[0]!.slice(0, gone.outcomes[0]!.tokens.length))
    engine.dispose()
  })

  it('goes on after the last request was removed inside a window', async () => {
    const engine = new Engine(model, { maxBatchSize: 2, maxSequenceLength: 64, stepsPerSync: 8 })
    const first = engine.add(request(1, { maxNewTokens: 40 }))
    for (let i = 0; i < 4; i++) await engine.step()
    engine.remove(first)
    expect(engine.rows).toBe(0)
    const second = engine.add(request(2))
    while (await engine.step());
    expect(second.outcomes[0]!.tokens).toEqual((await alone([request(2)]))[0])
    engine.dispose()
  })

  it("fails only the request whose listener throws inside a window", async () => {
    const engine = new Engine(model, { maxBatchSize: 2, maxSequenceLength: 64, stepsPerSync: 8 })
    let seen = 0
    const bad = engine.add(request(1, { onToken: () => { if (++seen === 5) throw new Error('listener') } }))
    const good = engine.add(request(2))
    while (await engine.step());
    expect(bad).toMatchObject({ failed: true, error: new Error('listener') })
    expect(good.outcomes[0]!.tokens).toEqual((await alone([request(2)]))[0])
    engine.dispose()
  })

  it('keeps one window open while nobody waits, and ends it for one who does', async () => {
    const begun = vi.spyOn(InferenceParams.prototype, 'beginDecode')
    try {
      const engine = new Engine(model, { maxBatchSize: 2, maxSequenceLength: 64, stepsPerSync: 4 })
      const first = engine.add(request(0, { maxNewTokens: 50 }))
      for (let i = 0; i < 20; i++) await engine.step()
      expect(begun).toHaveBeenCalledTimes(1)
      const second = engine.add(request(1, { maxNewTokens: 10 }))
      // The four steps that are enqueued, then its prefill.
      for (let i = 0; i < 5; i++) await engine.step()
      expect(second.prefilled).toBe(true)
      while (await engine.step());
      // Both, then the first alone in a window of one row.
      expect(begun.mock.calls.map(([, width]) => width)).toEqual([1, 2, 1])
      expect([first, second].map((h) => h.outcomes[0]!.tokens)).toEqual(await alone([request(0, { maxNewTokens: 50 }), request(1, { maxNewTokens: 10 })]))
      engine.dispose()
    } finally {
      begun.mockRestore()
    }
  })

  it('holds as many tokens as its pages allow: a window reserves no more than a row can become', async () => {
    // 2 rows of at most 16 + 8 tokens in exactly 12 pages of 4.
    const requests = [request(0, { maxNewTokens: 16 - prompts(1)[0]!.length + 1 }), request(1, { maxNewTokens: 8 - prompts(2)[1]!.length + 1 })]
    const engine = new Engine(model, { maxBatchSize: 2, maxSequenceLength: 16, isPaged: true, pageSize: 4, totalNumPages: 6, stepsPerSync: 8 })
    const handles = requests.map((r) => engine.add(r))
    while (await engine.step());
    const want = await alone(requests)
    handles.forEach((handle, b) => expect(handle.outcomes[0]!.tokens).toEqual(want[b]))
    engine.dispose()
  })
})

it('buckets are the powers of two', () => {
  expect([1, 2, 3, 4, 5, 8, 9, 64, 65].map(bucketOf)).toEqual([1, 2, 4, 4, 8, 8, 16, 64, 128])
})
