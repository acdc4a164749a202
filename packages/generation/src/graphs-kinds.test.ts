/** Replays against eager steps, to the bit: every recipe, every kind of cache, batches below, at and above a bucket's edge. */
import { openDevice, type Device } from '@octet-llm/kernels'
import { InferenceParams, type KvDType } from '@octet-llm/kv-cache'
import { calibrate, resolveFp8, type DecoderForCausalLM, type Fp8Option } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'

import { generateTokens, type GenerateTokensOptions } from './generate.js'
import { randomDecoder } from './testing/random-decoder.test.helper.js'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
  // An FP8 cache without calibrated scales says so; here it is meant.
  vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
})
afterAll(() => device.dispose())

interface Kind {
  readonly dtype: 'f32' | 'bf16'
  readonly fp8?: Fp8Option
  /** Static scales of activations, and of each head's keys and values. */
  readonly calibrated?: boolean
  /** Queries, keys and values of attention too, as a recipe's fp8Dpa. */
  readonly dpa?: boolean
}

const KINDS: Readonly<Record<string, Kind>> = {
  'f32 weights': { dtype: 'f32' },
  'bf16 weights': { dtype: 'bf16' },
  'by row, activations by token': { dtype: 'bf16', fp8: true },
  'by row, activations by token, in f32': { dtype: 'f32', fp8: true },
  'by row, calibrated static activations': { dtype: 'bf16', fp8: true, calibrated: true },
  'by tensor, calibrated static activations': { dtype: 'f32', fp8: 'current', calibrated: true },
  '128x128, activations 1x128': { dtype: 'bf16', fp8: 'block' },
  'calibrated, attention inputs in FP8': { dtype: 'bf16', fp8: 'current', calibrated: true, dpa: true },
}

/** Past one block of 128 columns, the second one ragged. */
const HIDDEN = 144

async function make({ dtype, fp8, calibrated = false, dpa = false }: Kind): Promise<DecoderForCausalLM> {
  const rules = resolveFp8(fp8, calibrated)
  const model = randomDecoder(device, { dtype, hidden: HIDDEN, fp8: rules && { ...rules, dpa } })
  if (!calibrated) return model
  const plain = randomDecoder(device, { dtype, hidden: HIDDEN })
  model.finishLoading(await calibrate(plain, [{ inputIds: [prompts(8)[7]!] }]))
  await plain.dispose()
  return model
}

/** Prompts of uneven lengths. */
const prompts = (count: number): number[][] => Array.from({ length: count }, (_, b) => Array.from({ length: 1 + ((b * 5) % 9) }, (_, i) => 3 + ((b * 31 + i * 7) % 90)))

const CACHES = (['f32', 'bf16', 'e4m3'] as const satisfies KvDType[]).flatMap((dtype) => [{ dtype }, { dtype, isPaged: true, pageSize: 3, totalNumPages: 60 }])

/** The logits that a processor sees, by sequence and number of its ids, as bits. */
async function logitsOf(model: DecoderForCausalLM, options: GenerateTokensOptions): Promise<Map<string, Buffer>> {
  const seen = new Map<string, Buffer>()
  await generateTokens(model, {
    ...options,
    logitsProcessors: [(scores, { ids, sequence }) => void seen.set(`${sequence} ${ids.length}`, Buffer.from(scores.slice().buffer))],
  })
  return seen
}

describe.each(Object.entries(KINDS))('%s', (_, kind) => {
  let model: DecoderForCausalLM
  beforeAll(async () => void (model = await make(kind)))
  afterAll(() => model.dispose())

  // Attention inputs in FP8 want a cache in FP8.
  const caches = CACHES.filter(({ dtype }) => dtype === 'e4m3' || kind.dpa !== true)

  it.each(caches)('cache %o: logits to the bit and tokens of eager steps, nothing left behind', async (kvCache) => {
    const round = async () => {
      for (const rows of [3, 4, 5]) {
        const options = { inputIds: prompts(rows), maxNewTokens: 8, kvCache }
        const capture = vi.spyOn(device.queue, 'capture')
        const eager = await logitsOf(model, { ...options, graphs: false })
        expect(capture).not.toHaveBeenCalled()
        const replayed = await logitsOf(model, { ...options, graphs: true })
        // One recording of the model serves its bucket; the host chooses.
        expect(capture).toHaveBeenCalledTimes(1)
        expect(eager.size).toBe(rows * 8)
        expect([...replayed.keys()].sort()).toEqual([...eager.keys()].sort())
        for (const [key, bits] of eager) expect([key, Buffer.compare(bits, replayed.get(key)!)]).toEqual([key, 0])
        for (const mode of [{}, { doSample: true, temperature: 1.3, topK: 40, topP: 0.95, minP: 0.01, seed: 7 }]) {
          const want = await generateTokens(model, { ...options, ...mode, graphs: false })
          capture.mockClear()
          expect((await generateTokens(model, { ...options, ...mode, graphs: true, stepsPerSync: 3 })).tokens).toEqual(want.tokens)
          expect(capture).toHaveBeenCalledTimes(2)
        }
        capture.mockRestore()
      }
      await device.synchronize()
      const { allocatedBytes, allocations } = device.memoryStats()
      return { allocatedBytes, allocations }
    }
    // The first round may grow what the model keeps: tables, buffers.
    const before = await round()
    expect(await round()).toEqual(before)
  })
})

describe('what runs in JavaScript', () => {
  it('a replayed step enqueues two replays and a read with its mark, whatever the model; an eager one every op', async () => {
    const model = await make(KINDS['by row, activations by token']!)
    const enqueued = async (maxNewTokens: number, graphs: boolean): Promise<number> => {
      const before = device.queue.enqueued
      await generateTokens(model, { inputIds: prompts(3), maxNewTokens, graphs, stepsPerSync: 4 })
      return device.queue.enqueued - before
    }
    await enqueued(60, true)
    // 32 tokens more within one window of pages.
    expect(await enqueued(60, true) - (await enqueued(28, true))).toBe(32 * 4)
    expect(await enqueued(60, false) - (await enqueued(28, false))).toBeGreaterThan(32 * 2 * 9)
    await model.dispose()
  })

  it.each<[string, Partial<GenerateTokensOptions>]>([
    ['a stop string', { stopStrings: ['no such text'], tokenizer: { tokenBytes: async (ids) => ids.map((id) => Uint8Array.of(id)) } }],
    ['a mask of allowed tokens', { prefixAllowedTokens: (_, ids) => [3 + (ids.length % 7), 20, 40, 60] }],
    ['a processor of one’s own', { logitsProcessors: [(scores, { ids }) => void (scores[ids.length % 97] = -Infinity)] }],
    ['a repetition penalty', { repetitionPenalty: 1.3 }],
    ['no repeated pairs', { noRepeatNgramSize: 2 }],
    ['a criterion', { stoppingCriteria: [({ ids }) => ids.length > 1000] }],
  ])('%s makes the host look at every step, which is replayed all the same', async (_, mode) => {
    const model = await make(KINDS['f32 weights']!)
    const [step, begin] = [vi.spyOn(model, 'step'), vi.spyOn(InferenceParams.prototype, 'beginDecode')]
    const options = { inputIds: prompts(3), maxNewTokens: 10, ...mode }
    const { tokens } = await generateTokens(model, options)
    // Prefill and one recording; then a window of one step for each token.
    expect([step.mock.calls.length, begin.mock.calls.length]).toEqual([2, 9])
    begin.mockClear()
    const eager = await generateTokens(model, { ...options, graphs: false })
    expect(tokens).toEqual(eager.tokens)
    expect(begin).not.toHaveBeenCalled()
    for (const spy of [step, begin]) spy.mockRestore()
    await model.dispose()
  })

  it('several steps run for each look of the host: greedy, sampled, with EOS ids', async () => {
    const model = await make(KINDS['f32 weights']!)
    for (const mode of [{}, { doSample: true, temperature: 1.2, topK: 20, topP: 0.9, minP: 0.02, seed: 3 }, { eosTokenId: [95, 96] }]) {
      const begin = vi.spyOn(InferenceParams.prototype, 'beginDecode')
      const { tokens } = await generateTokens(model, { inputIds: prompts(3), maxNewTokens: 33, stepsPerSync: 8, ...mode })
      expect(tokens).toEqual((await generateTokens(model, { inputIds: prompts(3), maxNewTokens: 33, graphs: false, ...mode })).tokens)
      expect(begin.mock.calls.length).toBeLessThanOrEqual(4)
      begin.mockRestore()
    }
    await model.dispose()
  })
})
