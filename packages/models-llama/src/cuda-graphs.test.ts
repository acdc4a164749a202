import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import type { GenerateTokensOptions } from '@octet-llm/generation'
import { readConfig } from '@octet-llm/hf-loader/config'
import { Workspace } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'

import { TELlamaForCausalLMCudaGraphs } from './cuda-graphs.js'
import { fixture, readGolden, unpadded, type ModelGolden } from './testing/goldens.test.util.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const golden = readGolden<ModelGolden>('golden-fairy-llama')
const prompts = unpadded(golden.left_padded)
const sizes = { cudaGraphsStaticBatchSize: 4, cudaGraphsStaticMaxContextLen: 64 }

describe.each(['f32', 'bf16'] as const)('TELlamaForCausalLMCudaGraphs in %s', (dtype) => {
  let model: TELlamaForCausalLMCudaGraphs
  beforeAll(async () => void (model = await TELlamaForCausalLMCudaGraphs.fromPretrained(fixture('fairy-llama'), { device, dtype, ...sizes })))
  afterAll(() => model.dispose())

  it('is a model of its static sizes', () => {
    expect(model).toBeInstanceOf(TELlamaForCausalLMCudaGraphs)
    expect(model).toMatchObject(sizes)
  })

  it('is made from a config too', async () => {
    const random = TELlamaForCausalLMCudaGraphs.fromConfig(await readConfig(fixture('variants/llama-headdim')), { device, dtype, ...sizes })
    expect(random).toBeInstanceOf(TELlamaForCausalLMCudaGraphs)
    expect(random).toMatchObject({ ...sizes, dtype })
    await random.dispose()
  })

  it.each<[string, Partial<GenerateTokensOptions>]>([
    ['greedy', { ignoreEos: true }],
    ['sampling, to EOS', { doSample: true, temperature: 1.2, topK: 40, topP: 0.95 }],
    ['greedy, pages of 16', { ignoreEos: true, kvCache: { isPaged: true, pageSize: 16 } }],
    ['greedy, FP8 cache', { ignoreEos: true, kvCache: { dtype: 'e4m3' } }],
  ])('%s: the tokens of eager steps, batches below and above the static one', async (_, mode) => {
    for (const inputIds of [prompts.slice(0, 1), prompts, [...prompts, ...prompts, ...prompts]]) {
      const options = { inputIds, maxNewTokens: 24, seed: 3, ...mode }
      const eager = await model.generate({ ...options, graphs: false })
      for (const stepsPerSync of [1, 8]) expect((await model.generate({ ...options, stepsPerSync })).tokens).toEqual(eager.tokens)
    }
  })

  it('a recorded step gives the logits of an eager one to the bit, idle rows beside it or not', async () => {
    const capacity = 4
    const [eager, recorded] = [0, 1].map(() => model.createInferenceParams({ maxBatchSize: capacity, maxSequenceLength: 64, pageSize: 16 })) as [ReturnType<typeof model.createInferenceParams>, ReturnType<typeof model.createInferenceParams>]
    model.prepareCapture(64)
    const V = model.info.vocabSize
    const ids = (values: readonly number[]) => Tensor.from(Int32Array.from(values), { shape: [values.length], dtype: 'i32', device })
    for (const rows of [1, 2, 3, 4]) {
      const counts = new Map(Array.from({ length: rows }, (_, b) => [b, 3 + b]))
      for (const params of [eager, recorded]) {
        params.reset()
        params.preStep(counts)
        const tokens = ids([...counts.values()].flatMap((n, b) => Array.from({ length: n }, (_, i) => 5 + b * 7 + i)))
        model.step(tokens, params, { logits: 'none' })
        tokens.dispose()
      }
      const input = Tensor.zeros([capacity], { dtype: 'i32', device })
      const ones = new Map([...counts.keys()].map((b) => [b, 1]))
      recorded.beginDecode(ones, capacity)
      const graph = device.queue.capture(() => model.step(input, recorded, { workspace: new Workspace(device) }))
      recorded.endDecode(new Map())
      for (let t = 0; t < 20; t++) {
        const next = Array.from({ length: rows }, (_, b) => (11 * t + 3 * b) % V)
        eager.preStep(ones)
        const tokens = ids(next)
        const want = model.step(tokens, eager)
        recorded.beginDecode(ones, capacity)
        input.write(Int32Array.from({ length: capacity }, (_, b) => next[b] ?? 0))
        graph.replay()
        expect(Buffer.compare((await graph.value.toBytes()).subarray(0, rows * V * 4), await want.toBytes())).toBe(0)
        recorded.endDecode(ones)
        for (const x of [tokens, want]) x.dispose()
      }
      await graph.dispose()
      input.dispose()
    }
    eager.dispose()
    recorded.dispose()
  })

  it('records once: any batch up to the bucket and any prompt up to the maximum replays, JavaScript running the prefill alone', async () => {
    const [step, capture] = [vi.spyOn(model, 'step'), vi.spyOn(device.queue, 'capture')]
    const counted = async (options: GenerateTokensOptions): Promise<[steps: number, captures: number]> => {
      step.mockClear()
      capture.mockClear()
      const { tokens } = await model.generate({ maxNewTokens: 24, ignoreEos: true, ...options })
      const counts: [number, number] = [step.mock.calls.length, capture.mock.calls.length]
      expect(tokens).toEqual((await model.generate({ maxNewTokens: 24, ignoreEos: true, ...options, graphs: false })).tokens)
      return counts
    }
    const long = (n: number) => Array.from({ length: n }, (_, i) => 20 + i)
    // A fresh kind of cache: the step of 4 rows and the choice of tokens are recorded. An eager run in between takes their place.
    const kvCache = { pageSize: 32 }
    expect(await counted({ inputIds: prompts.slice(0, 3), kvCache })).toEqual([2, 2])
    step.mockClear()
    capture.mockClear()
    const runs = [prompts.slice(0, 4), [...prompts, ...prompts].slice(0, 4), [long(64), long(1), long(33)], [long(5), ...prompts.slice(0, 3)]]
    const outputs = []
    for (const inputIds of [prompts.slice(0, 3), ...runs]) outputs.push((await model.generate({ inputIds, maxNewTokens: 24, ignoreEos: true, kvCache })).tokens)
    expect([step.mock.calls.length, capture.mock.calls.length]).toEqual([runs.length + 2, 2])
    for (const maxNewTokens of [3, 9, 17]) await model.generate({ inputIds: prompts.slice(0, 4), maxNewTokens, ignoreEos: true, kvCache })
    expect(capture).toHaveBeenCalledTimes(2)
    for (const [i, inputIds] of runs.entries()) expect(outputs[i + 1]).toEqual((await model.generate({ inputIds, maxNewTokens: 24, ignoreEos: true, graphs: false, kvCache })).tokens)
    for (const spy of [step, capture]) spy.mockRestore()
  })

  it('keeps serving after an abort, overlapping calls and another kind of cache', async () => {
    const options = { inputIds: prompts.slice(0, 3), maxNewTokens: 12, ignoreEos: true }
    const want = (await model.generate({ ...options, graphs: false })).tokens
    const controller = new AbortController()
    await expect(model.generate({ ...options, signal: controller.signal, onTokens: () => controller.abort('cut') })).rejects.toBe('cut')
    const overlapping = await Promise.all([1, 2, 3].map(() => model.generate(options)))
    for (const { tokens } of overlapping) expect(tokens).toEqual(want)
    await model.generate({ ...options, kvCache: { dtype: 'bf16', isPaged: true, pageSize: 16 } })
    expect((await model.generate(options)).tokens).toEqual(want)
  })

  it('leaks nothing over recordings', async () => {
    const round = async (): Promise<number> => {
      await model.generate({ inputIds: prompts, maxNewTokens: 12, ignoreEos: true })
      await device.synchronize()
      return device.memoryStats().allocatedBytes
    }
    const before = await round()
    for (let i = 0; i < 3; i++) expect(await round()).toBe(before)
  })

  it('gives everything back with the model, its kept cache and recordings too', async () => {
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    const other = await TELlamaForCausalLMCudaGraphs.fromPretrained(fixture('fairy-llama'), { device, dtype, ...sizes })
    await other.generate({ inputIds: prompts.slice(0, 2), maxNewTokens: 8, ignoreEos: true })
    await other.dispose()
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('refuses a prompt past the static length, and static sizes below one', async () => {
    const long = Array.from({ length: 65 }, (_, i) => 20 + i)
    await expect(model.generate({ inputIds: [long], maxNewTokens: 2 })).rejects.toMatchObject({ code: 'CONTEXT_TOO_LONG', argument: 'prompt 0' })
    expect((await model.generate({ inputIds: [long.slice(1)], maxNewTokens: 2, ignoreEos: true })).tokens[0]).toHaveLength(2)
    for (const argument of ['cudaGraphsStaticBatchSize', 'cudaGraphsStaticMaxContextLen'] as const) {
      expect(() => new TELlamaForCausalLMCudaGraphs(model.config, { device, ...sizes, [argument]: 0 })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument }) as Error)
    }
  })
})
