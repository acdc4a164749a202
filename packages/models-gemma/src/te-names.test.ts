/** Names of te_gemma whose counterparts have no test of their own elsewhere. */
import type { InferenceParams } from '@octet-llm/kv-cache'
import { openDevice, type Device, type Tensor } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TEGemmaForCausalLM } from './model.js'
import { fixture, i32, readGolden, unpadded, type ModelGolden } from './testing/goldens.test.util.js'

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
const rows = unpadded(golden.left_padded).slice(0, 3)
const TOKENS = 8

/** Best token of each row. */
async function bestOf(logits: Tensor): Promise<number[]> {
  const values = await logits.toFloat32Array()
  const { vocabSize } = model.info
  logits.dispose()
  return Array.from({ length: values.length / vocabSize }, (_, r) => {
    const line = values.subarray(r * vocabSize, (r + 1) * vocabSize)
    return line.indexOf(Math.max(...line))
  })
}

const begin = (count: number): InferenceParams => model.createInferenceParams({ maxBatchSize: count, maxSequenceLength: 64 })

describe('phases', () => {
  it('both phases are callables over the model, without parameters of their own', async () => {
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    const [context, generation] = [model.contextPhase(), model.generationPhase()]
    expect([context.model, generation.model]).toEqual([model, model])
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
    const params = begin(rows.length)
    params.preStep(new Map(rows.map((row, b) => [b, row.length])))
    let next = await bestOf(context.forward(i32(device, rows.flat()), params))
    const tokens = next.map((id) => [id])
    for (let t = 1; t < TOKENS; t++) {
      params.preStep(new Map(rows.map((_, b) => [b, 1])))
      const chosen = generation.forward(i32(device, next), params)
      next = [...(await chosen.toInt32Array())]
      chosen.dispose()
      for (const [b, id] of next.entries()) tokens[b]!.push(id)
    }
    params.dispose()
    expect(tokens).toEqual(golden.greedy_64.slice(0, rows.length).map((row) => row.slice(0, TOKENS)))
  })

  it('two caches at once over one model do not meet', async () => {
    const caches = [begin(1), begin(1)] as const
    const texts: number[][] = [[], []]
    for (let t = 0; t < TOKENS; t++) {
      for (const [i, params] of caches.entries()) {
        const feed = t === 0 ? rows[i]! : [texts[i]!.at(-1)!]
        params.preStep(new Map([['only', feed.length]]))
        texts[i]!.push(...(await bestOf(model.step(i32(device, feed), params))))
      }
    }
    for (const params of caches) params.dispose()
    expect(texts).toEqual(golden.greedy_64.slice(0, 2).map((row) => row.slice(0, TOKENS)))
  })
})
