// A model that is disposed while it is at work: its runs end, and nothing stays on the device.
import { openDevice, Tensor, type Device, type Graph } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import { TELlamaForCausalLM, TELlamaForCausalLMCudaGraphs } from '@octet-llm/models-llama'
import { Workspace, type CausalLM } from '@octet-llm/transformer'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { LanguageModel } from './language-model.js'
import { loadModel } from './load-model.js'
import { fixture } from './testing/cli.test-helper.js'

const FAIRY = fixture('fairy-llama')
const LONG = { maxNewTokens: 400, ignoreEos: true } as const
const DISPOSED: unknown = expect.objectContaining({ code: 'DISPOSED' })

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const unhandled: unknown[] = []
const note = (reason: unknown): void => void unhandled.push(reason)
beforeEach(() => void process.on('unhandledRejection', note))
afterEach(async () => {
  await new Promise(setImmediate)
  process.off('unhandledRejection', note)
  expect(unhandled.splice(0)).toEqual([])
  await device.synchronize()
  expect(device.memoryStats()).toMatchObject({ allocatedBytes: 0, allocations: 0 })
})

const load = (): Promise<LanguageModel> => loadModel(FAIRY, { device, dtype: 'f32' })

/** Resolves with the first `count` tokens of a run, which goes on. */
async function take(run: ReturnType<LanguageModel['generate']>, count: number): Promise<AsyncIterator<unknown>> {
  const stream = run.tokenStream[Symbol.asyncIterator]()
  for (let i = 0; i < count; i++) expect((await stream.next()).done).toBe(false)
  return stream
}

/** A step of the caller's own. */
function capture(model: CausalLM): { graph: Graph<Tensor>; params: InferenceParams; tokens: Tensor } {
  const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 8 })
  const tokens = Tensor.zeros([1], { dtype: 'i32', device: model.device })
  model.prepareCapture!(8)
  params.preStep(new Map([[0, 1]]))
  return { graph: model.device.queue.capture(() => model.step(tokens, params, { workspace: new Workspace(model.device) })), params, tokens }
}

async function rest(stream: AsyncIterator<unknown>): Promise<number> {
  let count = 0
  while ((await stream.next()).done !== true) count++
  return count
}

describe('LanguageModel.dispose', () => {
  it.each([['recorded steps', {}], ['steps one by one', { graphs: false }], ['pages', { kvCache: { isPaged: true, pageSize: 16 } }]])('ends a stream that is half read: %s', async (_, options) => {
    const llm = await load()
    const run = llm.generate('Once upon a time', { ...LONG, ...options })
    const stream = await take(run, 5)
    await llm.dispose()
    expect(device.memoryStats().allocatedBytes).toBe(0)
    await expect(rest(stream)).rejects.toEqual(DISPOSED)
    await expect(run.result()).rejects.toEqual(DISPOSED)
  })

  it('ends runs that nobody reads, several at once, and beams', async () => {
    const llm = await load()
    await take(llm.generate('Once upon a time', LONG), 1)
    const beams = llm.generate('The king', { ...LONG, numBeams: 4 }).result()
    const batch = llm.generate(['The fox', 'A wolf and'], LONG).result()
    const ended = Promise.allSettled([beams, batch])
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
    await llm.dispose()
    expect(device.memoryStats().allocatedBytes).toBe(0)
    expect(await ended).toEqual([{ status: 'rejected', reason: DISPOSED }, { status: 'rejected', reason: DISPOSED }])
  })

  it('ends runs that are still at their tokens, and those that begin too late', async () => {
    const llm = await load()
    const late = llm.generate('The king', LONG)
    const stream = llm.generate('The fox', LONG).textStream[Symbol.asyncIterator]()
    const early = stream.next()
    const disposal = llm.dispose()
    await expect(early).rejects.toEqual(DISPOSED)
    await disposal
    await expect(late.result()).rejects.toEqual(DISPOSED)
    expect(() => llm.generate('Once')).toThrow(DISPOSED as Error)
  })

  it('is one disposal, however often it is called', async () => {
    const llm = await load()
    const stream = await take(llm.generate('Once', LONG), 3)
    const first = llm.dispose()
    expect(llm.dispose()).toBe(first)
    await Promise.all([first, llm[Symbol.asyncDispose]()])
    await llm.dispose()
    await expect(rest(stream)).rejects.toEqual(DISPOSED)
  })

  it('comes at the end of a block', async () => {
    let held: Promise<unknown>
    {
      await using llm = await load()
      held = llm.generate('Once', LONG).result()
      held.catch(() => undefined)
      await new Promise(setImmediate)
    }
    expect(device.memoryStats().allocatedBytes).toBe(0)
    await expect(held).rejects.toEqual(DISPOSED)
  })

  it('closes the device that was opened for it, also when weights cannot be freed', async () => {
    const llm = await loadModel(FAIRY, { dtype: 'f32', device: 'cpu' })
    const own = llm.device
    capture(llm.model)
    await expect(llm.dispose()).rejects.toMatchObject({ code: 'TENSOR_IN_GRAPH' })
    expect(own.disposed).toBe(true)
    await llm.dispose()
  })
})

describe('DecoderForCausalLM.dispose', () => {
  it('ends generations, also of a generator that is kept', async () => {
    const options = { device, dtype: 'f32', cudaGraphsStaticBatchSize: 2, cudaGraphsStaticMaxContextLen: 16 } as const
    for (const make of [TELlamaForCausalLM, TELlamaForCausalLMCudaGraphs]) {
      const model = await make.fromPretrained(FAIRY, options)
      await model.generate({ inputIds: [[5, 6, 7]], maxNewTokens: 6 })
      let seen = 0
      let ended: Promise<PromiseSettledResult<unknown>[]> | undefined
      await new Promise<void>((started) => {
        const run = (first: number) => model.generate({ inputIds: [[first, 9]], maxNewTokens: 200, eosTokenId: [], onTokens: () => void (++seen === 12 && started()) })
        ended = Promise.allSettled([run(1), run(2)])
      })
      await Promise.all([model.dispose(), model.dispose()])
      expect(device.memoryStats().allocatedBytes).toBe(0)
      expect((await ended!).map((end) => end.status === 'rejected' && (end.reason as { code: string }).code)).toEqual(['DISPOSED', 'DISPOSED'])
      await expect(model.generate({ inputIds: [[1]] })).rejects.toEqual(DISPOSED)
      expect(seen).toBeLessThan(400)
    }
  })

  it('frees the rest once the graph that held it has gone', async () => {
    const model = await TELlamaForCausalLM.fromPretrained(FAIRY, { device, dtype: 'f32' })
    const whole = device.memoryStats().allocatedBytes
    const { graph, params, tokens } = capture(model)
    await expect(model.dispose()).rejects.toMatchObject({ code: 'TENSOR_IN_GRAPH' })
    await expect(model.dispose()).rejects.toMatchObject({ code: 'TENSOR_IN_GRAPH' })
    expect(() => model.step(tokens, params)).toThrow(DISPOSED as Error)
    expect(device.memoryStats().allocatedBytes).toBeGreaterThan(whole / 2)
    await graph.dispose()
    await model.dispose()
    params.dispose()
    tokens.dispose()
  })
})
