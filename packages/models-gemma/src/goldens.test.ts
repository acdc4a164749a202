import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TEGemmaForCausalLM } from './model.js'
import { fixture, goldenTensor, maxDifference, padRight, prefill, readGolden, unpadded, type ModelGolden, type VariantGolden } from './testing/goldens.test.util.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

/** Hugging Face's float32 run and ours differ by summation order only; an independent float64 run is within 1.4e-5. */
const BAR = 2e-4

describe('fairy-gemma: Hugging Face’s results in float32', () => {
  const golden = readGolden<ModelGolden>('golden-fairy-gemma')
  const { input_ids: inputIds, attention_mask: attentionMask } = golden.left_padded
  let model: TEGemmaForCausalLM
  beforeAll(async () => void (model = await TEGemmaForCausalLM.fromPretrained(fixture('fairy-gemma'), { device, dtype: 'f32' })))
  afterAll(() => model.dispose())
  const tensor = (name: string) => goldenTensor('golden-fairy-gemma', name)

  it.each(['te', 'reference'] as const)('logits and every hidden state, %s layers', async (decoderLayer) => {
    const other = await TEGemmaForCausalLM.fromPretrained(fixture('fairy-gemma'), { device, dtype: 'f32', decoderLayer })
    const { logits, hiddenStates } = other.forward({ inputIds: [golden.token_ids[0]!], hiddenStates: true })
    expect(maxDifference(await logits.toFloat32Array(), await tensor('prompt0.logits'))).toBeLessThan(BAR)
    expect(hiddenStates).toHaveLength(5 + 1)
    for (const [i, state] of hiddenStates.entries()) {
      const want = await tensor(`prompt0.hidden.${i}`)
      // The residual stream grows with depth: the bar is relative to its largest value where that exceeds 1.
      const size = Math.max(1, want.reduce((max, x) => Math.max(max, Math.abs(x)), 0))
      expect(maxDifference(await state.toFloat32Array(), want)).toBeLessThan(BAR * size)
    }
    await other.dispose()
  })

  it('last logits of a left-padded batch: forward, prefill, chunked prefill, right padding', async () => {
    const want = await tensor('batch.last_logits')
    const { vocabSize } = model.info
    const lastOf = async (logits: Float32Array, mask: readonly number[][]) =>
      mask.flatMap((row, b) => {
        const at = (b * row.length + row.lastIndexOf(1)) * vocabSize
        return [...logits.subarray(at, at + vocabSize)]
      })
    expect(maxDifference(await lastOf(await model.forward({ inputIds, attentionMask }).toFloat32Array(), attentionMask), want)).toBeLessThan(BAR)
    const right = padRight(golden.left_padded, 7)
    expect(maxDifference(await lastOf(await model.forward(right).toFloat32Array(), right.attentionMask), want)).toBeLessThan(BAR)
    const rows = unpadded(golden.left_padded)
    const whole = await prefill(model, rows)
    expect(maxDifference(whole, want)).toBeLessThan(BAR)
    expect([...(await prefill(model, rows, 4))]).toEqual([...whole])
    for (const [b, row] of rows.entries()) expect([...(await prefill(model, [row]))]).toEqual([...whole.subarray(b * vocabSize, (b + 1) * vocabSize)])
  })

  const generate = async (options: Parameters<TEGemmaForCausalLM['generate']>[0], width = inputIds[0]!.length) => {
    const { sequences, scores } = await model.generate(options)
    return { ids: sequences.map((row) => row.slice(width)), scores }
  }

  it('greedy 64, batched and one prompt at a time', async () => {
    expect((await generate({ inputIds, attentionMask, maxNewTokens: 64, ignoreEos: true })).ids).toEqual(golden.greedy_64)
    for (const [b, row] of unpadded(golden.left_padded).slice(0, 3).entries()) {
      expect((await generate({ inputIds: [row], maxNewTokens: 64, ignoreEos: true }, row.length)).ids).toEqual([golden.greedy_64[b]])
    }
  })

  it.each([
    ['beam4', { numBeams: 4 }],
    ['beam4_len2_early', { numBeams: 4, lengthPenalty: 2, earlyStopping: true }],
    ['beam3_return3', { numBeams: 3, numReturnSequences: 3 }],
    ['greedy_rep1.3', { repetitionPenalty: 1.3 }],
    ['greedy_no_repeat_3gram', { noRepeatNgramSize: 3 }],
  ] as const)('%s', async (name, options) => {
    const want = golden[name]
    const got = await generate({ inputIds, attentionMask, maxNewTokens: 32, ignoreEos: true, ...options })
    expect(got.ids).toEqual(want.ids)
    if (want.scores !== null) expect(maxDifference(got.scores!, want.scores)).toBeLessThan(BAR)
  })

  it.each([['eos_is_period', {}], ['beam4_eos_is_period', { numBeams: 4 }]] as const)('%s', async (name, options) => {
    const want = golden[name]
    const got = await generate({ inputIds, attentionMask, maxNewTokens: 40, eosTokenId: want.eos_token_id, ...options })
    // Hugging Face keeps emitting pads up to the width of the whole run.
    const width = want.ids[0]!.length
    const pad = model.info.padTokenId!
    expect(got.ids.map((row) => [...row, ...new Array<number>(width - row.length).fill(pad)])).toEqual(want.ids)
  })
})

describe.each(['gemma-mha256', 'gemma-mqa', 'gemma2', 'gemma3'])('variants/%s: Hugging Face’s results in float32', (variant) => {
  it.each(['te', 'reference'] as const)('logits, batch and greedy, %s layers', async (decoderLayer) => {
    const folder = `variants/${variant}`
    const golden = readGolden<VariantGolden>(folder)
    const model = await TEGemmaForCausalLM.fromPretrained(fixture(folder), { device, dtype: 'f32', decoderLayer })
    const rows = unpadded(golden)
    const row0 = await model.forward({ inputIds: [rows[0]!] }).toFloat32Array()
    expect(maxDifference(row0, await goldenTensor(folder, 'row0.logits'))).toBeLessThan(BAR)
    expect(maxDifference(await prefill(model, rows), await goldenTensor(folder, 'batch.last_logits'))).toBeLessThan(BAR)
    const { sequences } = await model.generate({ inputIds: golden.input_ids, attentionMask: golden.attention_mask, maxNewTokens: 24, ignoreEos: true })
    expect(sequences.map((row) => row.slice(golden.input_ids[0]!.length))).toEqual(golden.greedy_24)
    await model.dispose()
  })
})
