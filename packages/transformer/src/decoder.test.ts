import { openDevice, scope, Tensor, type Device } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { DecoderForCausalLM } from './decoder.js'
import type { DecoderOptions } from './decoder-options.js'
import { makeGraphedCallables } from './graphed-callables.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { oracleOptions, perturb, plainWeights } from './testing/layer.test.util.js'
import { difference, matmul, norm, oracleLayer } from './testing/oracle.test.util.js'
import { TransformerLayer, type TransformerLayerOptions } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const V = 40
const HIDDEN = 24

/** Gemma-like with two kinds of layer by default: windows, post norms, two rotary embeddings, tied head. */
const make = (layerOptions: Partial<TransformerLayerOptions> = {}, options: Partial<DecoderOptions> = {}) => parts(layerOptions, options).model

function parts(layerOptions: Partial<TransformerLayerOptions>, options: Partial<DecoderOptions>) {
  const dtype = options.dtype ?? 'f32'
  const layers = [0, 1, 2].map(
    (i) =>
      new TransformerLayer({
        device, dtype, hiddenSize: HIDDEN, ffnHiddenSize: 32, numAttentionHeads: 4, numGqaGroups: 2, kvChannels: 8, normalization: 'RMSNorm',
        zeroCenteredGamma: true, activation: 'geglu', bias: false, postNorms: true, windowSize: i === 1 ? [-1, -1] : [3, 0], initStd: 0.3, seed: 8, layerNumber: i + 1, ...layerOptions,
      }),
  )
  const near = new RotaryPositionEmbedding({ device, dim: 8, base: 100 })
  const far = new RotaryPositionEmbedding({ device, dim: 8, base: 1e4 })
  for (const layer of layers) perturb(layer)
  const ropes = [near, far, near]
  const model = new DecoderForCausalLM({
    device,
    dtype,
    seed: 8,
    initStd: 0.5,
    info: {
      modelType: 'test', vocabSize: V, hiddenSize: HIDDEN, numLayers: 3, numHeads: 4, numKvHeads: layers[0]!.selfAttention.core.kvHeads, headDim: 8,
      maxPositionEmbeddings: 64, dtype, bosTokenId: null, eosTokenIds: [], padTokenId: null,
    },
    layers,
    ropes,
    embeddingScale: 2,
    layernormEpsilon: 1e-6,
    zeroCenteredGamma: true,
    tieWordEmbeddings: true,
    finalLogitSoftcapping: 5,
    weightMap: [{ name: 'embed', address: 'embed_tokens.weight' }, { name: 'q', address: 'layers.1.self_attention.layernorm_qkv.weight.query' }, { name: 'norm', address: 'norm.weight' }],
    ...options,
  })
  return { model, layers, ropes }
}

const i32 = (data: readonly number[]) => Tensor.from(Int32Array.from(data), { shape: [data.length], dtype: 'i32', device })
const ids = (n: number, seed: number) => Array.from({ length: n }, (_, i) => (i * 7 + seed * 13 + i * i) % V)
const refusal = (fn: () => unknown): { code?: string; argument?: string } => {
  try {
    fn()
  } catch (error) {
    return error as { code: string }
  }
  return {}
}

/** One step; the tokens by sequence. */
async function step(model: DecoderForCausalLM, params: InferenceParams, tokens: ReadonlyMap<number, readonly number[]>, logits: 'last' | 'all' = 'last'): Promise<Float32Array> {
  params.preStep(new Map([...tokens].map(([id, list]) => [id, list.length])))
  const packed = i32((params.order as number[]).flatMap((id) => tokens.get(id)!))
  const out = model.step(packed, params, { logits })
  packed.dispose()
  const values = await out.toFloat32Array()
  out.dispose()
  return values
}

describe.each([
  ['te', 'Gemma-like', {}, {}],
  ['reference', 'Gemma-like', {}, {}],
  ['te', 'Llama-like, MQA', { numGqaGroups: 1, postNorms: false, castBeforeWeight: true, zeroCenteredGamma: false, windowSize: [-1, -1], activation: 'swiglu' }, { zeroCenteredGamma: false }],
  ['te', 'MHA with biases and an untied head', { numGqaGroups: 4, bias: true }, { tieWordEmbeddings: false, finalLogitSoftcapping: undefined }],
] as [('te' | 'reference'), string, Partial<TransformerLayerOptions>, Partial<DecoderOptions>][])('step against forward: %s layers, %s', (decoderLayer, _, layerOptions, options) => {
  it('chunked prefill and decode give the full forward’s logits at every step', async () => {
    const model = make(layerOptions, { ...options, decoderLayer })
    const tokens = ids(14, 1)
    const want = await model.forward({ inputIds: [tokens] }).toFloat32Array()
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 20, pageSize: 4 })
    const got: number[] = []
    for (const [a, b] of [[0, 6], [6, 7], [7, 8], [8, 12], [12, 13], [13, 14]] as const) got.push(...(await step(model, params, new Map([[0, tokens.slice(a, b)]]), 'all')))
    expect(difference(got, want).max).toBeLessThan(1e-4)
    params.dispose()
    await model.dispose()
  })

  it('random arrivals, removals, chunk sizes and forks: the last logits of every sequence, every step', async () => {
    const model = make(layerOptions, { ...options, decoderLayer })
    const sequences = Array.from({ length: 8 }, (_, s) => ids(16, s))
    const wants: Float32Array[] = []
    for (const s of sequences) wants.push(await model.forward({ inputIds: [s] }).toFloat32Array())
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(fc.nat(4), { minLength: 8, maxLength: 8 }), { minLength: 1, maxLength: 8 }), fc.boolean(), async (schedule, isPaged) => {
        const params = model.createInferenceParams({ maxBatchSize: 3, maxSequenceLength: 16, pageSize: 4, isPaged, ...(isPaged ? { totalNumPages: 8 } : {}) })
        const done = new Map<number, number>()
        for (const counts of schedule) {
          const left = new Set([...done].filter(([id, n]) => n >= 14 || counts[id] === 0).map(([id]) => id))
          for (const id of left) done.delete(id)
          for (let id = 0; id < 8 && done.size < 3; id++) if (!done.has(id) && !left.has(id) && counts[id]! > 2) done.set(id, 0)
          const tokens = new Map([...done].map(([id, n]) => [id, sequences[id]!.slice(n, n + Math.max(1, counts[id]!))]))
          let last: Float32Array
          try {
            last = await step(model, params, tokens)
          } catch (error) {
            // Eight pages of four tokens do not hold three whole sequences: a full cache changes nothing.
            expect(error).toMatchObject({ code: 'KV_CACHE_FULL' })
            done.delete([...done.keys()][0]!)
            params.preStep(new Map([...done].filter(([id]) => params.order.includes(id)).map(([id]) => [id, 0])))
            continue
          }
          for (const [id, list] of tokens) done.set(id, done.get(id)! + list.length)
          for (const [row, id] of (params.order as number[]).entries()) {
            const at = (done.get(id)! - 1) * V
            expect(difference(last.subarray(row * V, (row + 1) * V), wants[id]!.subarray(at, at + V)).max).toBeLessThan(1e-4)
          }
        }
        params.dispose()
      }),
      { numRuns: 12 },
    )
    await model.dispose()
  })
})

describe('forward against the float64 oracle', () => {
  it.each(['te', 'reference'] as const)('%s layers: scaled embedding, each layer’s window and rotary table, norm, tied head, soft cap', async (decoderLayer) => {
    const { model, layers, ropes } = parts({}, { decoderLayer })
    const tokens = ids(12, 6)
    const table = await model.weights.get('embed_tokens.weight')!.tensor.toFloat32Array()
    let x = Float64Array.from(tokens.flatMap((id) => [...table.subarray(id * HIDDEN, (id + 1) * HIDDEN)].map((v) => 2 * v))) as Float64Array
    for (const [i, layer] of layers.entries()) x = oracleLayer(x, oracleOptions(layer.options, ropes[i]), await plainWeights(layer))
    const normed = norm(x, { normalization: 'RMSNorm', eps: 1e-6, zeroCentered: true }, await model.weights.get('norm.weight')!.tensor.toFloat32Array())
    const want = matmul(normed, table, HIDDEN).map((v) => 5 * Math.tanh(v / 5))
    expect(difference(await model.forward({ inputIds: [tokens] }).toFloat32Array(), want).max).toBeLessThan(2e-5)
    await model.dispose()
  })
})

describe('invariance to the bit in float32', () => {
  it('of a step: batch, place in the batch, chunks, pages, threads', async () => {
    const model = make()
    const tokens = ids(15, 2)
    const run = async (m: DecoderForCausalLM, chunks: readonly number[], neighbours: number, options: { pageSize?: number; isPaged?: boolean } = {}) => {
      const params = m.createInferenceParams({ maxBatchSize: 4, maxSequenceLength: 32, ...options })
      let at = 0
      let last = new Float32Array()
      for (const [k, n] of chunks.entries()) {
        const others = Array.from({ length: neighbours }, (_, i) => [i, ids(1 + ((k + i) % 3), 20 + i + k)] as const)
        last = (await step(m, params, new Map([...others, [9, tokens.slice(at, at + n)]]))).slice(-V)
        at += n
      }
      params.dispose()
      return [...last]
    }
    const alone = await run(model, [15], 0)
    expect(await run(model, [15], 3)).toEqual(alone)
    expect(await run(model, [1, 7, 2, 5], 0)).toEqual(alone)
    expect(await run(model, [...new Array<number>(15).fill(1)], 2)).toEqual(alone)
    expect(await run(model, [4, 11], 1, { pageSize: 1 })).toEqual(alone)
    expect(await run(model, [4, 11], 1, { isPaged: true, pageSize: 7 })).toEqual(alone)
    await model.dispose()
  })

  it('of forward: neighbours, pads on either side and between', async () => {
    const model = make()
    const tokens = ids(6, 3)
    const alone = [...(await model.forward({ inputIds: [tokens] }).toFloat32Array())]
    const rows = [
      { ids: [0, 0, 0, ...tokens], mask: [0, 0, 0, 1, 1, 1, 1, 1, 1] },
      { ids: [...tokens, 5, 5, 5], mask: [1, 1, 1, 1, 1, 1, 0, 0, 0] },
      { ids: [tokens[0]!, 1, ...tokens.slice(1, 4), 2, 2, ...tokens.slice(4)], mask: [1, 0, 1, 1, 1, 0, 0, 1, 1] },
      { ids: ids(9, 4), mask: new Array<number>(9).fill(1) },
    ]
    const inputIds = rows.map((r) => r.ids)
    const copy = structuredClone(inputIds)
    const logits = await model.forward({ inputIds, attentionMask: rows.map((r) => r.mask) }).toFloat32Array()
    expect(inputIds).toEqual(copy)
    for (const row of [0, 1, 2]) {
      const kept = rows[row]!.mask.flatMap((m, i) => (m ? [...logits.subarray((row * 9 + i) * V, (row * 9 + i + 1) * V)] : []))
      expect(kept).toEqual(alone)
      const pads = rows[row]!.mask.flatMap((m, i) => (m ? [] : [...logits.subarray((row * 9 + i) * V, (row * 9 + i + 1) * V)]))
      expect(pads.every((x) => x === 0)).toBe(true)
    }
    await model.dispose()
  })

  it('of the thread count', async () => {
    const tokens = ids(30, 5)
    const results: number[][] = []
    for (const threads of [1, 3]) {
      const other = await openDevice('cpu', { threads })
      const before = device
      device = other
      const model = make()
      results.push([...(await model.forward({ inputIds: [tokens] }).toFloat32Array())])
      await model.dispose()
      device = before
      await other.dispose()
    }
    expect(results[1]).toEqual(results[0])
  })
})

describe('DecoderForCausalLM', () => {
  it('gives logits for the last, all or no tokens', async () => {
    const model = make()
    const params = model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 16 })
    params.preStep(new Map([[0, 3], [1, 2]]))
    const tokens = i32([...ids(3, 1), ...ids(2, 2)])
    const all = model.step(tokens, params, { logits: 'all' })
    expect([all.shape, all.dtype]).toEqual([[5, V], 'f32'])
    params.reset()
    params.preStep(new Map([[0, 3], [1, 2]]))
    const last = model.step(tokens, params)
    expect(last.shape).toEqual([2, V])
    const [a, l] = [await all.toFloat32Array(), await last.toFloat32Array()]
    expect([...l]).toEqual([...a.subarray(2 * V, 3 * V), ...a.subarray(4 * V)])
    params.reset()
    params.preStep(new Map([[0, 3], [1, 2]]))
    expect(model.step(tokens, params, { logits: 'none' })).toBeNull()
    expect((await step(model, params, new Map([[0, [1]], [1, [2]]]))).length).toBe(2 * V)
    await model.dispose()
  })

  it('returns every hidden state: the embedding, each layer’s, the normed last', async () => {
    const model = make()
    const tokens = [ids(4, 1), [9, ...ids(3, 2)]]
    const attentionMask = [[1, 1, 1, 1], [0, 1, 1, 1]]
    const { logits, hiddenStates } = model.forward({ inputIds: tokens, attentionMask, hiddenStates: true })
    expect(hiddenStates.map((h) => h.shape)).toEqual(Array.from({ length: 4 }, () => [2, 4, HIDDEN]))
    const table = await model.weights.get('embed_tokens.weight')!.tensor.toFloat32Array()
    const first = await hiddenStates[0]!.toFloat32Array()
    for (let i = 0; i < 4 * HIDDEN; i++) expect(first[i]).toBe(Math.fround(2 * table[tokens[0]![Math.floor(i / HIDDEN)]! * HIDDEN + (i % HIDDEN)]!))
    expect(first.subarray(4 * HIDDEN, 5 * HIDDEN).every((x) => x === 0)).toBe(true)
    const last = await hiddenStates[3]!.toFloat32Array()
    const want = Array.from({ length: V }, (_, v) => {
      let sum = 0
      for (let i = 0; i < HIDDEN; i++) sum += last[i]! * table[v * HIDDEN + i]!
      return 5 * Math.tanh(sum / 5)
    })
    expect(difference((await logits.toFloat32Array()).subarray(0, V), want).max).toBeLessThan(1e-5)
    expect([...(await model.forward({ inputIds: tokens, attentionMask }).toFloat32Array())]).toEqual([...(await logits.toFloat32Array())])
    await model.dispose()
  })

  it('takes steps and batches without tokens', async () => {
    const model = make()
    const params = model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 8 })
    expect((await step(model, params, new Map())).length).toBe(0)
    await step(model, params, new Map([[0, [1]], [1, [2]]]))
    expect([...(await step(model, params, new Map([[0, []], [1, []]])))]).toEqual(Array.from({ length: 2 * V }, () => 0))
    const idle = await step(model, params, new Map([[0, []], [1, [3]]]))
    const want = await model.forward({ inputIds: [[2, 3]] }).toFloat32Array()
    expect(difference(idle.subarray(V), want.subarray(V)).max).toBeLessThan(1e-4)
    expect(model.forward({ inputIds: [] }).shape).toEqual([0, 0, V])
    const empty = model.forward({ inputIds: [[1, 2]], attentionMask: [[0, 0]] })
    expect((await empty.toFloat32Array()).every((x) => x === 0)).toBe(true)
    await device.synchronize()
    await model.dispose()
  })

  it('takes ids on the device', async () => {
    const model = make()
    const tokens = [ids(5, 1), ids(5, 2)]
    const tensor = Tensor.from(Int32Array.from(tokens.flat()), { shape: [2, 5], dtype: 'i32', device })
    expect([...(await model.forward({ inputIds: tensor }).toFloat32Array())]).toEqual([...(await model.forward({ inputIds: tokens }).toFloat32Array())])
    expect(tensor.disposed).toBe(false)
    await model.dispose()
  })

  it('allocates nothing but its logits in a decode step, and frees everything it made', async () => {
    await device.synchronize()
    const start = device.memoryStats().allocatedBytes
    const model = make()
    const params = model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 40 })
    const tokens = i32([1, 2])
    const decode = () => {
      params.preStep(new Map([[0, 1], [1, 1]]))
      model.step(tokens, params).dispose()
    }
    decode()
    const before = device.memoryStats().allocations
    for (let i = 0; i < 10; i++) decode()
    expect(device.memoryStats().allocations - before).toBeLessThanOrEqual(10)
    const { weightsBytes, tablesBytes, workspaceBytes } = model.memory()
    const perLayer = 4 * (HIDDEN * 8 * (4 + 4) + 32 * HIDDEN + 3 * 32 * HIDDEN + 4 * HIDDEN)
    expect(weightsBytes).toBe(3 * perLayer + 4 * (V * HIDDEN + HIDDEN))
    expect(tablesBytes).toBe(2 * 2 * 512 * 4 * 4)
    expect(workspaceBytes).toBeGreaterThan(0)
    model.forward({ inputIds: [ids(9, 1)], hiddenStates: true }).hiddenStates.forEach((h) => h.dispose())
    params.dispose()
    tokens.dispose()
    await model.dispose()
    await model.dispose()
    await device.synchronize()
    // The forward's logits are the caller's and still stand.
    expect(device.memoryStats().allocatedBytes - start).toBeLessThanOrEqual(9 * V * 4 + 512)
  })

  it('a captured decode step replays to the bit, as sequences grow past a page and past the tables of other runs', async () => {
    const model = make()
    model.reserve(600)
    const [eager, captured] = [0, 1].map(() => model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 600, pageSize: 64 })) as [InferenceParams, InferenceParams]
    const tokens = i32([0, 0])
    const counts = new Map([[0, 1], [1, 1]])
    const before = (params: InferenceParams, t: number) => {
      params.preStep(counts)
      tokens.write([t % V, (t * 3) % V])
    }
    before(captured, 0)
    model.step(tokens, captured).dispose()
    before(eager, 0)
    model.step(tokens, eager).dispose()
    const graph = device.queue.capture(() => model.step(tokens, captured))
    for (let t = 1; t < 150; t++) {
      before(captured, t)
      graph.replay()
      const got = await graph.value.toFloat32Array()
      before(eager, t)
      const out = model.step(tokens, eager)
      expect(got).toEqual(await out.toFloat32Array())
      out.dispose()
    }
    model.reserve(2000)
    expect(() => graph.replay()).not.toThrow()
    await graph.dispose()
    for (const t of [eager, captured, tokens]) t.dispose()
    await model.dispose()
  })

  it('a whole forward is recorded over ids on the device, and replays other ids to the bit', async () => {
    const model = make()
    const tensorOf = (seed: number) => Tensor.from(Int32Array.from([...ids(5, seed), ...ids(5, seed + 1)]), { shape: [2, 5], dtype: 'i32', device })
    const x = tensorOf(1)
    const [call] = makeGraphedCallables([(inputIds: Tensor) => model.forward({ inputIds })], [[x]])
    for (const seed of [1, 4, 9]) {
      const inputIds = tensorOf(seed)
      const want = model.forward({ inputIds })
      expect(await call(inputIds).toFloat32Array()).toEqual(await want.toFloat32Array())
      for (const t of [inputIds, want]) t.dispose()
    }
    await call.dispose()
    x.dispose()
    await model.dispose()
  })

  it('works inside a scope, again and again', async () => {
    const model = make()
    const tokens = [ids(6, 1)]
    const want = [...(await model.forward({ inputIds: tokens }).toFloat32Array())]
    for (let i = 0; i < 2; i++) {
      const out = scope(() => scope(() => model.forward({ inputIds: tokens })))
      expect([...(await out.toFloat32Array())]).toEqual(want)
    }
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 16 })
    const got: number[] = []
    for (const token of tokens[0]!) {
      const out = scope(() => {
        params.preStep(new Map([[0, 1]]))
        return scope(() => model.step(i32([token]), params, { logits: 'all' }))
      })
      got.push(...(await out.toFloat32Array()))
    }
    expect(difference(got, want).max).toBeLessThan(1e-4)
    await model.dispose()
  })

  it('names wrong inputs', async () => {
    const model = make()
    const params = model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 8 })
    params.preStep(new Map([[0, 3]]))
    expect(refusal(() => model.step(i32([1, 2]), params))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'tokens' })
    expect(refusal(() => model.step(Tensor.zeros([3], { dtype: 'f32', device }), params))).toMatchObject({ code: 'DTYPE_MISMATCH', argument: 'tokens' })
    expect(refusal(() => model.forward({ inputIds: [[1, 2], [3]] }))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'inputIds[1]' })
    expect(refusal(() => model.forward({ inputIds: [[1, 2]], attentionMask: [[1]] }))).toMatchObject({ code: 'SHAPE_MISMATCH', argument: 'attentionMask' })
    expect(refusal(() => model.forward({ inputIds: Tensor.zeros([2], { dtype: 'i32', device }) }))).toMatchObject({ code: 'SHAPE_MISMATCH' })
    expect(refusal(() => model.forward({ inputIds: Tensor.zeros([1, 2], { dtype: 'f32', device }) }))).toMatchObject({ code: 'DTYPE_MISMATCH' })
    expect(refusal(() => model.forward({ inputIds: Tensor.zeros([1, 2], { dtype: 'i32', device }), attentionMask: [[0, 1]] }))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(refusal(() => model.parameter('k'))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'name' })
    await expect(model.forward({ inputIds: [[V]] }).toFloat32Array()).rejects.toMatchObject({ code: 'OP_FAILED' })
    await model.dispose().catch(() => undefined)
    for (const call of [() => model.step(i32([1]), params), () => model.forward({ inputIds: [[1]] }), () => model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 1 })]) {
      expect(refusal(call)).toMatchObject({ code: 'DISPOSED' })
    }
  })

  it('describes its checkpoint in slots', () => {
    const model = make()
    expect(model.slots()).toEqual([
      { name: 'embed', shape: [V, HIDDEN], quantizable: false },
      { name: 'q', shape: [32, HIDDEN], quantizable: true },
      { name: 'norm', shape: [HIDDEN], quantizable: false },
    ])
    expect(model.parameter('q').shape).toEqual([32, HIDDEN])
  })
})
