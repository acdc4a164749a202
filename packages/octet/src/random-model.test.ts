import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { philox4x32, roundBf16 } from '@octet-llm/core'
import { parseConfig } from '@octet-llm/hf-loader/config'
import { openDevice } from '@octet-llm/kernels'
import type { DecoderForCausalLM } from '@octet-llm/transformer'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { RANDOM_MODELS, randomModel } from './random-model.js'
import { jsonOf, octet } from './testing/cli.test-helper.js'

let dir: string
let config: string
const TINY = { hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, vocab_size: 130, max_position_embeddings: 128 }

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'octet-random-'))
  config = join(dir, 'config.json')
  await writeFile(config, JSON.stringify({ ...RANDOM_MODELS['llama-3-8b'], ...TINY }))
})
afterAll(() => rm(dir, { recursive: true }))

/** The formula of docs/random-weights.md, written anew. */
function value(element: number, stream: number, seed: number, std: number): number {
  const quad = Math.floor(element / 4)
  const word = philox4x32([quad % 2 ** 32, Math.floor(quad / 2 ** 32), stream, 1], [seed % 2 ** 32, Math.floor(seed / 2 ** 32)])[element % 4]!
  return roundBf16(Math.fround(Math.fround(std * Math.sqrt(3)) * ((2 * (word >>> 8) + 1 - 2 ** 24) / 2 ** 24)))
}

const PARTS = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj']

/** Stream of a checkpoint tensor; null: a norm. */
function streamOf(name: string): number | null {
  if (name === 'model.embed_tokens.weight') return 0
  if (name === 'lm_head.weight') return 1
  const [, layer, part] = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name) ?? []
  const index = PARTS.indexOf(part ?? '')
  return index < 0 ? null : 64 * (Number(layer) + 1) + index
}

describe('randomModel', () => {
  it.each(['llama', 'gemma'] as const)('%s: every parameter is what the formula says, bit for bit', async (family) => {
    const seed = 2 ** 40 + 7
    const file = join(await mkdtemp(join(dir, family)), 'config.json')
    await writeFile(file, JSON.stringify({ ...RANDOM_MODELS[family === 'llama' ? 'llama-3-8b' : 'gemma-7b'], ...TINY, initializer_range: 0.05 }))
    const llm = await randomModel(file, { device: 'cpu', seed })
    try {
      const model = llm.model as DecoderForCausalLM
      let matrices = 0
      for (const { name, shape } of model.slots()) {
        const values = await model.parameter(name).toFloat32Array()
        const stream = streamOf(name)
        const norm = family === 'gemma' ? 0 : 1
        const expected = Float32Array.from({ length: values.length }, (_, i) => (stream === null ? norm : value(i, stream, seed, 0.05)))
        expect(values.length, name).toBe(shape.reduce((a, b) => a * b))
        expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from(expected.buffer)), name).toBe(0)
        if (stream !== null) matrices++
      }
      expect(matrices).toBe(2 * 7 + (family === 'llama' ? 2 : 1))
    } finally {
      await llm.dispose()
    }
  })

  it('has the published sizes built in', () => {
    const parameters = (name: keyof typeof RANDOM_MODELS): number => {
      const { hiddenSize: d, intermediateSize: f, numHiddenLayers: n, numAttentionHeads: h, numKeyValueHeads: kv, headDim, vocabSize: v, tieWordEmbeddings } = parseConfig(RANDOM_MODELS[name])
      return v * d * (tieWordEmbeddings ? 1 : 2) + n * (d * headDim * (2 * h + 2 * kv) + 3 * d * f + 2 * d) + d
    }
    expect(parameters('gemma-2b')).toBe(2_506_172_416)
    expect(parameters('gemma-7b')).toBe(8_537_680_896)
    expect(parameters('llama-2-7b')).toBe(6_738_415_616)
    expect(parameters('llama-3-8b')).toBe(8_030_261_248)
    expect(parameters('llama-3.2-1b')).toBe(1_235_814_400)
  })

  it('refuses a model that cannot fit with the bytes it needs, before any is made', async () => {
    const device = await openDevice('cpu', { memoryLimit: 2 ** 32 })
    const bytes = 2 * (2 * 128256 * 4096 + 32 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 14336))
    await expect(randomModel('llama-3-8b', { device })).rejects.toMatchObject({ code: 'OUT_OF_MEMORY', received: `${bytes} bytes for the weights of llama-3-8b` })
    expect(device.memoryStats().reservedBytes).toBe(0)
    await device.dispose()
  })

  it('counts the bytes of the dtype that it would make, and leaves nothing where memory runs out on the way', async () => {
    const file = join(await mkdtemp(join(dir, 'float-')), 'config.json')
    await writeFile(file, JSON.stringify({ ...RANDOM_MODELS['llama-3-8b'], ...TINY, vocab_size: 50_000, torch_dtype: 'float32', dtype: 'float32' }))
    const matrices = 2 * 50_000 * 64 + 2 * (2 * 64 * 16 * 6 + 3 * 64 * 96)
    const half = await openDevice('cpu', { memoryLimit: 3 * matrices })
    await expect(randomModel(file, { device: half })).rejects.toMatchObject({ code: 'OUT_OF_MEMORY', received: `${4 * matrices} bytes for the weights of ${file}` })
    expect(half.memoryStats().reservedBytes).toBe(0)
    await half.dispose()
    // Room for what is counted, and not for the slab of what is not.
    const scant = await openDevice('cpu', { memoryLimit: 4 * matrices })
    await expect(randomModel(file, { device: scant })).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    expect(scant.memoryStats()).toMatchObject({ allocatedBytes: 0, allocations: 0 })
    expect(scant.memoryStats().peakAllocatedBytes).toBeGreaterThan(0)
    await scant.dispose()
  })

  it('writes tokens from the command line, the same for the same seed; FP8 too', async () => {
    const ids = join(dir, 'ids.json')
    await writeFile(ids, JSON.stringify({ input_ids: [[3, 4, 5], [9]] }))
    const run = async (...flags: string[]) => jsonOf(await octet(['generate', '--random-weights', config, '--device', 'cpu', '--input-ids', ids, '--max-new-tokens', '4', '--ignore-eos', '--json', ...flags]))
    const [first, again, other, fp8] = await Promise.all([run(), run(), run('--weights-seed', '5'), run('--fp8', '--kv-dtype', 'fp8')])
    expect(first.sequences).toEqual(again.sequences)
    expect((first.sequences as number[][]).map((row) => row.length)).toEqual([7, 7])
    expect(other.sequences).not.toEqual(first.sequences)
    expect((fp8.sequences as number[][])[0]).toHaveLength(7)
  })

  it.each([
    [['--random-weights', 'no-such-model'], 'FILE_NOT_FOUND', 1],
    [['--random-weights', 'package.json'], 'INVALID_ARGUMENT', 1],
    [['--random-weights', 'gemma-2b', '--model', 'x'], 'USAGE', 2],
    [[], 'USAGE', 2],
  ] as const)('refuses %j', async (flags, code, status) => {
    const result = await octet(['generate', '--prompt', 'x', '--json', ...flags])
    expect([result.status, (jsonOf(result).error as { code: string }).code]).toEqual([status, code])
  })
})
