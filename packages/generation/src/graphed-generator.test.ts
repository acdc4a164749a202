import { openDevice, type Device } from '@octet-llm/kernels'
import type { DecoderForCausalLM } from '@octet-llm/transformer'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi, type MockInstance } from 'vitest'

import { generateTokens, type GenerateTokensOptions } from './generate.js'
import { GraphedGenerator } from './graphed-generator.js'
import { randomDecoder } from './testing/random-decoder.test.helper.js'

let device: Device
let model: DecoderForCausalLM
let made: MockInstance
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
  model = randomDecoder(device)
  made = vi.spyOn(model, 'createInferenceParams')
})
afterAll(async () => {
  await model.dispose()
  await device.dispose()
})
beforeEach(() => void made.mockClear())

const SIZES = { maxBatchSize: 4, maxPromptLength: 12 }
const prompt = (n: number, seed = 0): number[] => Array.from({ length: n }, (_, i) => 3 + ((seed * 31 + i * 7) % 90))
const allocated = async () => {
  await device.synchronize()
  const { allocatedBytes, allocations } = device.memoryStats()
  return { allocatedBytes, allocations }
}

/** A call on the generator: its tokens are held to those of eager steps. @returns caches that it made */
async function call(generator: GraphedGenerator, options: GenerateTokensOptions): Promise<number> {
  const before = made.mock.calls.length
  const { tokens } = await generator.generate(options)
  const count = made.mock.calls.length - before
  expect(tokens).toEqual((await generateTokens(model, { ...options, graphs: false })).tokens)
  return count
}

describe('GraphedGenerator', () => {
  it('makes a cache for the first call, and another only for one that asks for more or for another kind', async () => {
    const generator = new GraphedGenerator(model, SIZES)
    const counts: number[] = []
    for (const options of [
      { inputIds: [prompt(3)], maxNewTokens: 9 },
      { inputIds: [prompt(12), prompt(1), prompt(7), prompt(5)], maxNewTokens: 9 },
      { inputIds: [prompt(2), prompt(4)], maxNewTokens: 5, doSample: true, seed: 3, temperature: 1.4 },
      // More rows than the bucket wait their turn in the same cache.
      { inputIds: Array.from({ length: 7 }, (_, b) => prompt(2 + b, b)), maxNewTokens: 9 },
      { inputIds: [prompt(2)], maxNewTokens: 10 },
      { inputIds: [prompt(12)], maxNewTokens: 9 },
      { inputIds: [prompt(2)], maxNewTokens: 9, kvCache: { dtype: 'bf16' as const } },
      { inputIds: [prompt(3)], maxNewTokens: 9, kvCache: { dtype: 'bf16' as const } },
      { inputIds: [prompt(3)], maxNewTokens: 9, kvCache: { isPaged: true, pageSize: 4 } },
      { inputIds: [prompt(3)], maxNewTokens: 9, kvCache: { isPaged: true, pageSize: 8 } },
      { inputIds: [prompt(3)], maxNewTokens: 9, kvCache: { maxBatchSize: 2 } },
      { inputIds: [prompt(3), prompt(2)], maxNewTokens: 9, numBeams: 2 },
    ]) counts.push(await call(generator, options))
    expect(counts).toEqual([1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1])
    generator.dispose()
  })

  it('a call that fails takes its cache with it; calls that overlap have their own', async () => {
    const generator = new GraphedGenerator(model, SIZES)
    const options = { inputIds: [prompt(3), prompt(5)], maxNewTokens: 9 }
    expect(await call(generator, options)).toBe(1)
    const controller = new AbortController()
    await expect(generator.generate({ ...options, signal: controller.signal, onTokens: () => controller.abort('cut') })).rejects.toBe('cut')
    expect(await call(generator, options)).toBe(1)
    const want = (await generateTokens(model, { ...options, graphs: false })).tokens
    made.mockClear()
    for (const { tokens } of await Promise.all([1, 2, 3].map(() => generator.generate(options)))) expect(tokens).toEqual(want)
    expect(made).toHaveBeenCalledTimes(2)
    expect(await call(generator, options)).toBe(0)
    generator.dispose()
  })

  it('a run that is stopped early leaves an empty cache behind', async () => {
    const generator = new GraphedGenerator(model, SIZES)
    const options = { inputIds: [prompt(3), prompt(5)], maxNewTokens: 30, stepsPerSync: 8 }
    let seen = 0
    // The criterion ends one row inside a window while the other goes on.
    await generator.generate({ ...options, stoppingCriteria: [({ ids }) => ids.length > 6 && ++seen > 0] })
    expect(seen).toBeGreaterThan(0)
    expect(await call(generator, options)).toBe(0)
    generator.dispose()
  })

  it('gives everything back, refuses afterwards, and refuses sizes and prompts', async () => {
    // The model's own buffers have the size of its last prefill.
    await generateTokens(model, { inputIds: [prompt(4)], maxNewTokens: 9 })
    const before = await allocated()
    const generator = new GraphedGenerator(model, SIZES)
    await generator.generate({ inputIds: [prompt(3)], maxNewTokens: 9 })
    expect((await allocated()).allocatedBytes).toBeGreaterThan(before.allocatedBytes)
    await expect(generator.generate({ inputIds: [prompt(13)], maxNewTokens: 2 })).rejects.toMatchObject({ code: 'CONTEXT_TOO_LONG' })
    // One that still runs frees its cache when it ends.
    const running = generator.generate({ inputIds: [prompt(4)], maxNewTokens: 9 })
    generator.dispose()
    generator.dispose()
    expect((await running).tokens[0]).toHaveLength(9)
    await expect(generator.generate({ inputIds: [prompt(3)], maxNewTokens: 2 })).rejects.toMatchObject({ code: 'DISPOSED' })
    expect(await allocated()).toEqual(before)
    for (const argument of ['maxBatchSize', 'maxPromptLength'] as const) {
      for (const value of [0, 1.5, -1]) expect(() => new GraphedGenerator(model, { ...SIZES, [argument]: value })).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument }))
    }
  })
})
