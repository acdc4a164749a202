import { describe, expect, it, vi } from 'vitest'
import type { DeviceOps } from './engine/device-ops.js'
import { generateTokens, type GenerateTokensOptions } from './generate.js'
import { FakeModel } from './testing/fake-model.test.helper.js'
import { errorOf, run } from './testing/run.test.helper.js'

vi.mock('./engine/kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

describe('refusals, before anything runs', () => {
  it.each<[string, string, GenerateTokensOptions]>([
    ['CONTEXT_TOO_LONG', 'prompt 1', { inputIds: [[3], [3, 4, 5]], maxNewTokens: 8 }],
    ['CONTEXT_TOO_LONG', 'prompt 0', { inputIds: [[3, 4, 5]], maxNewTokens: 7, countPrefillToken: false }],
    ['CONTEXT_TOO_LONG', 'prompt 0', { inputIds: [Array<number>(10).fill(3)] }],
    ['CONTEXT_TOO_LONG', 'numBeams', { inputIds: [[3]], numBeams: 3, kvCache: { maxBatchSize: 2 } }],
    ['CONTEXT_TOO_LONG', 'pages', { inputIds: [[3]], maxNewTokens: 9, kvCache: { isPaged: true, pageSize: 2, totalNumPages: 3 } }],
    ['INVALID_ARGUMENT', 'maxLength', { inputIds: [[3, 4, 5]], maxLength: 3 }],
    ['INVALID_ARGUMENT', 'inputIds', { inputIds: [] }],
    ['INVALID_ARGUMENT', 'inputIds[1]', { inputIds: [[3], []] }],
    ['INVALID_ARGUMENT', 'inputIds[0]', { inputIds: [[3]], attentionMask: [[0]] }],
    ['INVALID_ARGUMENT', 'inputIds[0][1]', { inputIds: [[3, 23]] }],
    ['INVALID_ARGUMENT', 'inputIds[0][0]', { inputIds: [[-1]] }],
    ['INVALID_ARGUMENT', 'inputIds[0][0]', { inputIds: [[1.5]] }],
    ['INVALID_ARGUMENT', 'attentionMask', { inputIds: [[3], [4]], attentionMask: [[1]] }],
    ['INVALID_ARGUMENT', 'attentionMask[0]', { inputIds: [[3]], attentionMask: [[1, 1]] }],
    ['INVALID_ARGUMENT', 'attentionMask[0][0]', { inputIds: [[3]], attentionMask: [[2]] }],
    ['INVALID_ARGUMENT', 'seed', { inputIds: [[3]], seed: -1 }],
    ['INVALID_ARGUMENT', 'sequenceIds', { inputIds: [[3]], sequenceIds: [0, 1] }],
    ['INVALID_ARGUMENT', 'sequenceIds', { inputIds: [[3]], sequenceIds: [2 ** 32] }],
    ['INVALID_ARGUMENT', 'stopStrings', { inputIds: [[3]], stopStrings: 'x' }],
    ['INVALID_ARGUMENT', 'max_new_tokens', { inputIds: [[3]], max_new_tokens: 3 } as unknown as GenerateTokensOptions],
    ['INVALID_ARGUMENT', 'generationConfig.top_k', { inputIds: [[3]], generationConfig: { top_k: 3 } as object }],
    ['INVALID_ARGUMENT', 'modelGenerationConfig.seed', { inputIds: [[3]], modelGenerationConfig: { seed: 3 } as object }],
    ['INVALID_ARGUMENT', 'temprature', { inputIds: [[3]], temprature: 3 } as unknown as GenerateTokensOptions],
  ])('%s at %s', async (code, argument, options) => {
    const fake = new FakeModel({ maxPositions: 10 })
    expect(await errorOf(generateTokens(fake.model, options))).toMatchObject({ code, argument })
    expect(fake.steps).toEqual([])
    expect(fake.released).toBe(true)
  })

  it('says how to write an option that is spelt as in Python', async () => {
    const fake = new FakeModel()
    const error = await errorOf(generateTokens(fake.model, { inputIds: [[3]], max_new_tokens: 3 } as unknown as GenerateTokensOptions))
    expect(error).toMatchObject({ hint: 'write maxNewTokens' })
  })

  it('fills the positions to the last one', async () => {
    expect((await run({ inputIds: [[3, 4, 5]], maxNewTokens: 7 }, { maxPositions: 10 })).output.tokens[0]).toHaveLength(7)
  })
})
