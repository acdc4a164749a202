/** The KV cache against the full-sequence run, in float32, RoPE on: every token of every sequence at every step. */
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { DecoderForCausalLM } from './decoder.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { CachePlay, layouts, moves, ROWS, runs, type PlayedRow } from './testing/cache-play.test.util.js'
import { difference } from './testing/oracle.test.util.js'
import { TransformerLayer } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

/** What the properties met, all together. */
let steps = 0
let refused = 0

const V = 53
const HIDDEN = 32
const HEADS = 4
/** Past one chunk of attention (256 keys) in one sequence. */
const LENGTH = 400

function decoder(headDim: number, kvHeads: number): DecoderForCausalLM {
  const layers = [1, 2].map((layerNumber) => new TransformerLayer({
    device, dtype: 'f32', hiddenSize: HIDDEN, ffnHiddenSize: 40, numAttentionHeads: HEADS, numGqaGroups: kvHeads, kvChannels: headDim,
    normalization: 'RMSNorm', activation: 'swiglu', bias: false, initStd: 0.3, seed: 3, layerNumber,
  }))
  const rope = new RotaryPositionEmbedding({ device, dim: headDim, base: 500 })
  return new DecoderForCausalLM({
    device, dtype: 'f32', seed: 3, initStd: 0.5, layers, ropes: [rope, rope], layernormEpsilon: 1e-6, tieWordEmbeddings: true, weightMap: [],
    info: {
      modelType: 'test', vocabSize: V, hiddenSize: HIDDEN, numLayers: 2, numHeads: HEADS, numKvHeads: kvHeads, headDim,
      maxPositionEmbeddings: 512, dtype: 'f32', bosTokenId: null, eosTokenIds: [], padTokenId: null,
    },
  })
}

/** Token numbers repeat no pattern of the vocabulary. */
const idOf = (token: number) => (token * 29 + (token >> 3) * 11) % V

async function stepLogits(model: DecoderForCausalLM, params: InferenceParams, rows: readonly PlayedRow[]): Promise<Float32Array> {
  const ids = Int32Array.from(rows.flatMap(({ tokens, count }) => tokens.slice(tokens.length - count).map(idOf)))
  const tensor = Tensor.from(ids, { shape: [ids.length], dtype: 'i32', device })
  const logits = model.step(tensor, params, { logits: 'all' })
  const values = await logits.toFloat32Array()
  for (const t of [tensor, logits]) t.dispose()
  return values
}

/** Logits of the full sequences, [rows][tokens * V], without a cache. */
async function fullLogits(model: DecoderForCausalLM, rows: readonly PlayedRow[]): Promise<Float32Array[]> {
  const width = Math.max(...rows.map(({ tokens }) => tokens.length))
  const padded = <T>(values: readonly T[], pad: T): T[] => [...values, ...new Array<T>(width - values.length).fill(pad)]
  const logits = model.forward({ inputIds: rows.map(({ tokens }) => padded(tokens.map(idOf), 0)), attentionMask: rows.map(({ tokens }) => padded(tokens.map(() => 1), 0)) })
  const values = await logits.toFloat32Array()
  logits.dispose()
  return rows.map(({ tokens }, r) => values.subarray(r * width * V, (r * width + tokens.length) * V))
}

describe.each([32, 64, 128, 256])('head_dim %i', (headDim) => {
  it.each([['MHA', 4], ['GQA', 2], ['MQA', 1]] as const)('%s: arrivals, removals, chunks, forks and reorders give the full run’s logits, paged and not to the bit', async (_, kvHeads) => {
    const model = decoder(headDim, kvHeads)
    await fc.assert(
      fc.asyncProperty(moves(300), layouts(LENGTH), async (list, layout) => {
        const size = { maxBatchSize: ROWS, maxSequenceLength: LENGTH }
        const [paged, plain] = [model.createInferenceParams({ ...size, isPaged: true, ...layout }), model.createInferenceParams(size)]
        const play = new CachePlay([paged, plain])
        try {
          for (const move of list) {
            const rows = play.play(move)
            if (rows === null) continue
            const got = await stepLogits(model, paged, rows)
            expect(Buffer.compare(Buffer.from((await stepLogits(model, plain, rows)).buffer), Buffer.from(got.buffer))).toBe(0)
            const busy = rows.filter(({ count }) => count > 0)
            if (busy.length === 0) continue
            steps += 1
            let at = 0
            for (const [r, want] of (await fullLogits(model, busy)).entries()) {
              const fresh = want.subarray(want.length - busy[r]!.count * V)
              expect(difference(got.subarray(at, at + fresh.length), fresh).max).toBeLessThan(1e-4)
              at += fresh.length
            }
          }
        } finally {
          refused += play.refused
          for (const params of [paged, plain]) params.dispose()
        }
      }),
      { numRuns: runs(5, 60) },
    )
    await model.dispose()
  })
})

it('the traffic above was traffic: steps that ran, and some that pages did not allow', () => {
  expect(steps).toBeGreaterThan(100)
  expect(refused).toBeGreaterThan(0)
})
