/** What TransformerEngine's te_gemma gets wrong, by its number in the list of known defects, each shown right here. */
import { exportState, importState } from '@octet-llm/transformer'
import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TEGemmaDecoderLayer } from './layer.js'
import { TEGemmaForCausalLM } from './model.js'
import { fixture, i32, maxDifference, padRight, readGolden, unpadded, type ModelGolden } from './testing/goldens.test.util.js'

let device: Device
let model: TEGemmaForCausalLM
beforeAll(async () => {
  device = await openDevice('cpu')
  model = await TEGemmaForCausalLM.fromPretrained(fixture('fairy-gemma'), { device, dtype: 'f32' })
})
afterAll(async () => {
  await model.dispose()
  await device.dispose()
})

const golden = readGolden<ModelGolden>('golden-fairy-gemma')
const batch = golden.left_padded
const rows = unpadded(batch)
const width = batch.input_ids[0]!.length

const newTokens = async (options: Parameters<TEGemmaForCausalLM['generate']>[0], from: number) =>
  (await model.generate({ maxNewTokens: 12, ignoreEos: true, ...options })).sequences.map((row) => row.slice(from))
const want = golden.greedy_64.map((row) => row.slice(0, 12))

describe('te_gemma’s defects', () => {
  it('1: batch 1 works', async () => {
    expect(await newTokens({ inputIds: [rows[5]!] }, rows[5]!.length)).toEqual([want[5]])
  })

  it('2: right padding gives the same tokens, and the caller’s arrays stay as they are', async () => {
    const right = padRight(batch, 0)
    const before = structuredClone(right)
    expect(await newTokens(right, width)).toEqual(want)
    expect(right).toEqual(before)
  })

  it('3: any pad id', async () => {
    const inputIds = batch.input_ids.map((row, b) => row.map((id, i) => (batch.attention_mask[b]![i] === 1 ? id : 1234)))
    expect(await newTokens({ inputIds, attentionMask: batch.attention_mask, padTokenId: 1234 }, width)).toEqual(want)
  })

  it('4: no argument of generate is dropped: unknown ones are refused, sampling samples', async () => {
    const wrong = { inputIds: [rows[0]!], maxNewTokens: 2, topPee: 0.5 } as Parameters<TEGemmaForCausalLM['generate']>[0]
    await expect(model.generate(wrong)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'topPee' })
    const sampled = async (seed: number) => newTokens({ inputIds: [rows[0]!], doSample: true, temperature: 1.5, topK: 0, seed }, rows[0]!.length)
    const first = await sampled(1)
    expect(await sampled(1)).toEqual(first)
    expect(await sampled(2)).not.toEqual(first)
    expect(first).not.toEqual([want[0]])
  })

  it('5: EOS ends a row, and the run when all rows have ended', async () => {
    const eosTokenId = want[0]![2]!
    const { tokens, sequences, finishReasons } = await model.generate({ inputIds: [rows[0]!], maxNewTokens: 12, eosTokenId })
    const end = want[0]!.indexOf(eosTokenId) + 1
    expect(tokens).toEqual([want[0]!.slice(0, end)])
    expect([sequences[0]!.length, finishReasons]).toEqual([rows[0]!.length + end, ['eos']])
  })

  it('6: exactly maxNewTokens by default; te_gemma’s [B, S + maxNewTokens + 1] on request', async () => {
    const shape = async (countPrefillToken: boolean) => (await model.generate({ inputIds: batch.input_ids, attentionMask: batch.attention_mask, maxNewTokens: 7, ignoreEos: true, countPrefillToken })).sequences.map((row) => row.length)
    expect(await shape(true)).toEqual(new Array(8).fill(width + 7))
    expect(await shape(false)).toEqual(new Array(8).fill(width + 7 + 1))
  })

  it('7: too many tokens are refused before anything is overwritten', async () => {
    await expect(model.generate({ inputIds: [rows[0]!], maxNewTokens: 2048 })).rejects.toMatchObject({ code: 'CONTEXT_TOO_LONG' })
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 16, pageSize: 8 })
    params.preStep(new Map([[0, 16]]))
    const logits = model.step(i32(device, new Array<number>(16).fill(3)), params)
    expect(() => params.preStep(new Map([[0, 1]]))).toThrowError(expect.objectContaining({ code: 'KV_CACHE_FULL' }))
    expect([params.sequenceLength(0), (await logits.toFloat32Array()).every(Number.isFinite)]).toEqual([16, true])
    params.dispose()
  })

  it('8: prefill computes lm_head for the last position only', async () => {
    const n = 400
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: n })
    const tokens = i32(device, Array.from({ length: n }, (_, i) => i % 2000))
    const highest: number[] = []
    for (const logits of ['none', 'last', 'all'] as const) {
      params.reset()
      params.preStep(new Map([[0, n]]))
      await device.synchronize()
      const before = device.memoryStats().allocatedBytes
      const out = model.step(tokens, params, { logits })
      highest.push(device.memoryStats().allocatedBytes - before)
      out?.dispose()
    }
    const row = 4 * model.info.vocabSize
    expect(highest[1]).toBeLessThan(10 * row)
    expect(highest[2]).toBeGreaterThanOrEqual(n * row)
    params.dispose()
  })

  it('9: sequences come and go between steps, at any page size', async () => {
    for (const pageSize of [1, 16, 256]) {
      const params = model.createInferenceParams({ maxBatchSize: 2, maxSequenceLength: 64, pageSize })
      const text = new Map<number, number[]>()
      const step = async (feed: ReadonlyMap<number, readonly number[]>) => {
        params.preStep(new Map([...feed].map(([id, list]) => [id, list.length])))
        const order = params.order as number[]
        const logits = await model.step(i32(device, order.flatMap((id) => [...feed.get(id)!])), params).toFloat32Array()
        for (const [r, id] of order.entries()) {
          const line = logits.subarray(r * model.info.vocabSize, (r + 1) * model.info.vocabSize)
          text.set(id, [...(text.get(id) ?? []), line.indexOf(Math.max(...line))])
        }
      }
      await step(new Map([[0, rows[0]!], [1, rows[1]!]]))
      for (let i = 0; i < 3; i++) await step(new Map([0, 1].map((id) => [id, [text.get(id)!.at(-1)!]])))
      // 0 leaves, 2 arrives with its whole prompt while 1 goes on.
      await step(new Map([[2, rows[2]!], [1, [text.get(1)!.at(-1)!]]]))
      for (let i = 0; i < 3; i++) await step(new Map([1, 2].map((id) => [id, [text.get(id)!.at(-1)!]])))
      expect([text.get(0), text.get(1), text.get(2)]).toEqual([want[0]!.slice(0, 4), want[1]!.slice(0, 8), want[2]!.slice(0, 4)])
      params.dispose()
    }
  })

  it('11: forward applies RoPE: the order of far tokens matters, and forward agrees with prefill', async () => {
    const ids = rows[6]!
    const swapped = [ids[0]!, ids[2]!, ids[1]!, ...ids.slice(3)]
    const last = async (inputIds: number[]) => (await model.forward({ inputIds: [inputIds] }).toFloat32Array()).slice(-model.info.vocabSize)
    expect(maxDifference(await last(ids), await last(swapped))).toBeGreaterThan(1e-2)
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: 64 })
    params.preStep(new Map([[0, ids.length]]))
    expect(maxDifference(await last(ids), await model.step(i32(device, ids), params).toFloat32Array())).toBeLessThan(1e-4)
    params.dispose()
  })

  it('13: the fused QKV state is right for MQA, not for MHA only', async () => {
    const { config } = model
    const layer = (fuseQkvParams: boolean) => new TEGemmaDecoderLayer(config, 0, { device, dtype: 'f32', fuseQkvParams, seed: 3 })
    const [plain, fused] = [await exportState(layer(false)), await exportState(layer(true))]
    const rowsOf = (part: string) => Buffer.from(plain.get(`self_attention.layernorm_qkv.${part}_weight`)!.data)
    // One KV group: all query heads, then the key, then the value.
    expect(Buffer.from(fused.get('self_attention.layernorm_qkv.weight')!.data).equals(Buffer.concat([rowsOf('query'), rowsOf('key'), rowsOf('value')]))).toBe(true)
    const target = new TEGemmaDecoderLayer(config, 0, { device, dtype: 'f32', fuseQkvParams: true, seed: 4 })
    importState(target, fused)
    for (const [name, { data }] of await exportState(target)) expect(Buffer.from(data).equals(fused.get(name)!.data)).toBe(true)
  })

  it('14: single and sharded checkpoints load, and a missing tensor is named', async () => {
    const sharded = await TEGemmaForCausalLM.fromPretrained(fixture('fairy-gemma'), { device })
    const single = await TEGemmaForCausalLM.fromPretrained(fixture('variants/gemma2'), { device })
    expect([sharded.info.dtype, single.info.modelType]).toEqual(['bf16', 'gemma2'])
    await sharded.dispose()
    await single.dispose()
  })
})
