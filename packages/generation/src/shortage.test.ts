// Memory that runs out at any point of making a thing: it is refused, and nothing of it stays.
import { Construction, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams } from '@octet-llm/kv-cache'
import { LayerNormMLP, resolveFp8, RotaryPositionEmbedding, TransformerLayer, type DecoderForCausalLM } from '@octet-llm/transformer'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { DecodeGraphs } from './engine/decode-graphs.js'
import { Engine } from './engine/engine.js'
import { generateTokens } from './generate.js'
import { randomDecoder } from './testing/random-decoder.test.helper.js'
import { starve } from '@octet-llm/kernels/contracts'

let device: Device
let model: DecoderForCausalLM
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  model = randomDecoder(device)
  // Tables and buffers that the model keeps.
  await generateTokens(model, { inputIds: [[1, 2, 3]], maxNewTokens: 8 })
})
afterAll(async () => {
  await model.dispose()
  await device.dispose()
})

/** A function that makes several things, as a model's constructor makes its layers. */
function whole<T>(make: () => T): T {
  using construction = new Construction()
  const made = make()
  construction.complete()
  return made
}

const fp8 = resolveFp8(true, false)
const layer = { hiddenSize: 32, ffnHiddenSize: 48, numAttentionHeads: 4, numGqaGroups: 2, kvChannels: 8 } as const

it.each<[string, () => unknown, number]>([
  ['a decoder', () => whole(() => randomDecoder(device)), 15],
  ['a decoder in FP8', () => whole(() => randomDecoder(device, { fp8, dtype: 'bf16', hidden: 160 })), 25],
  ['a layer with all it may have', () => new TransformerLayer({ device, ...layer, postNorms: true, qkNormType: 'RMSNorm', bias: true }), 14],
  ['an MLP', () => new LayerNormMLP({ device, hiddenSize: 32, ffnHiddenSize: 48 }), 6],
  ['a cache', () => new InferenceParams({ device, numLayers: 2, maxBatchSize: 2, maxSequenceLength: 16, numHeadsKv: 2, headDimK: 8, dtype: 'f32' }), 6],
  ['a cache in FP8', () => new InferenceParams({ device, numLayers: 2, maxBatchSize: 2, maxSequenceLength: 16, numHeadsKv: 2, headDimK: 8, dtype: 'e4m3' }), 7],
  ['an engine', () => new Engine(model, { maxBatchSize: 2, maxSequenceLength: 16 }), 6],
])('%s', async (_, make, least) => {
  expect(await starve(device, make)).toBeGreaterThanOrEqual(least)
})

it('the state of recorded steps', async () => {
  const params = model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 16 })
  expect(await starve(device, () => new DecodeGraphs(model, params))).toBe(4)
  // The arrays of a window, which the cache keeps.
  params.preStep(new Map([[0, 1]]))
  const arrays = device.memoryStats().allocations
  await starve(device, () => void (params.beginDecode(new Map([[0, 1]]), 2), params.endDecode(new Map()))).catch(() => undefined)
  expect(device.memoryStats().allocations - arrays).toBe(3)
  params.dispose()
})

it.each<[string, object]>([['recorded', {}], ['one by one', { graphs: false }], ['beams', { numBeams: 3 }], ['sampled', { doSample: true }]])('a generation: %s', async (_, options) => {
  const plain = (): Promise<unknown> => generateTokens(model, { inputIds: [[1, 2, 3]], maxNewTokens: 2, graphs: false })
  expect(await starve(device, async () => void (await generateTokens(model, { inputIds: [[1, 2, 3], [4]], maxNewTokens: 8, ...options })), plain)).toBeGreaterThan(8)
})

it('a forward, with hidden states too', async () => {
  for (const hiddenStates of [false, true]) {
    const run = (): { dispose(): void } => {
      const out = hiddenStates ? model.forward({ inputIds: [[1, 2], [3, 4]], hiddenStates: true }) : { logits: model.forward({ inputIds: [[1, 2], [3, 4]] }), hiddenStates: [] }
      return { dispose: () => [out.logits, ...out.hiddenStates].forEach((t) => t.dispose()) }
    }
    expect(await starve(device, run)).toBeGreaterThan(8)
  }
})

it.each(['te', 'reference'] as const)('a forward and a generation in FP8, attention too: %s', async (decoderLayer) => {
  for (const fp8 of [resolveFp8(true, false), { ...resolveFp8('current', false)!, dpa: true }]) {
    const own = randomDecoder(device, { fp8, dtype: 'bf16', hidden: 160, decoderLayer })
    const inputIds = [[1, 2], [3, 4]]
    await generateTokens(own, { inputIds, maxNewTokens: 8, kvCache: { dtype: 'e4m3' } })
    expect(await starve(device, () => own.forward({ inputIds }))).toBeGreaterThan(8)
    const plain = (): Promise<unknown> => generateTokens(own, { inputIds: [[1]], maxNewTokens: 2, graphs: false, kvCache: { dtype: 'e4m3' } })
    expect(await starve(device, async () => void (await generateTokens(own, { inputIds, maxNewTokens: 2, graphs: false, kvCache: { dtype: 'e4m3' } })), plain)).toBeGreaterThan(8)
    await own.dispose()
  }
})

it('a forward that is refused keeps none of its index arrays', async () => {
  const ids = Tensor.zeros([1, 2], { dtype: 'i32', device })
  const before = device.memoryStats().allocations
  expect(() => model.forward({ inputIds: ids, attentionMask: [[0, 1]] })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error)
  expect(device.memoryStats().allocations).toBe(before)
  ids.dispose()
})

it('rotary tables', async () => {
  const dynamic = (): RotaryPositionEmbedding => new RotaryPositionEmbedding({ device, dim: 8, scaling: { type: 'dynamic', factor: 2 }, maxPositionEmbeddings: 4 })
  const using = (rope: RotaryPositionEmbedding, work: () => unknown): RotaryPositionEmbedding => (work(), rope)
  expect(await starve(device, () => { const rope = dynamic(); return using(rope, () => rope.reserve(4)) })).toBe(2)
  const positions = Tensor.zeros([6], { dtype: 'i32', device })
  expect(await starve(device, () => { const rope = dynamic(); return using(rope, () => rope.forTokens(positions, [{ begin: 0, count: 6 }])) })).toBe(3)
  positions.dispose()
})
