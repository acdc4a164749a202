/** What TransformerEngine's te_llama gets wrong, by its number in the list of known defects, each shown right here. */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseConfig } from '@octet-llm/hf-loader/config'
import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TELlamaForCausalLM } from './model.js'
import { fixture, i32, maxDifference, readGolden, unpadded, type ModelGolden } from './testing/goldens.test.util.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const golden = readGolden<ModelGolden>('golden-fairy-llama')
const rows = unpadded(golden.left_padded)

async function edited(change: (config: Record<string, unknown>) => void): Promise<{ dir: string; remove: () => Promise<void> }> {
  const dir = await mkdtemp(join(tmpdir(), 'octet-llama-'))
  await cp(fixture('variants/llama-headdim'), dir, { recursive: true })
  const config = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>
  change(config)
  await writeFile(join(dir, 'config.json'), JSON.stringify(config))
  return { dir, remove: () => rm(dir, { recursive: true }) }
}

describe('te_llama’s defects', () => {
  it('14: a tensor that is missing, extra or mis-shaped is named, and nothing stays allocated', async () => {
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    for (const [change, names] of [
      [(c: Record<string, unknown>) => void (c['num_hidden_layers'] = 4), /missing[^]*model\.layers\.3\.self_attn\.q_proj\.weight/],
      [(c: Record<string, unknown>) => void (c['num_hidden_layers'] = 2), /unexpected[^]*model\.layers\.2\.mlp\.down_proj\.weight/],
      [(c: Record<string, unknown>) => void (c['intermediate_size'] = 96), /wrong shape[^]*gate_proj\.weight expected \[96, 64\], received \[160, 64\]/],
      // A hostile size is compared with the file before memory is taken for it.
      [(c: Record<string, unknown>) => void Object.assign(c, { vocab_size: 2 ** 24, hidden_size: 2 ** 20, head_dim: 32 }), /wrong shape/],
    ] as const) {
      const { dir, remove } = await edited(change)
      await expect(TELlamaForCausalLM.fromPretrained(dir, { device })).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH', message: expect.stringMatching(names) as string })
      await remove()
    }
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('15: rope_theta counts', async () => {
    const logits = async (theta: number) => {
      const { dir, remove } = await edited((c) => void (c['rope_theta'] = theta))
      const model = await TELlamaForCausalLM.fromPretrained(dir, { device, dtype: 'f32' })
      const values = await model.forward({ inputIds: [[1, 9, 8, 7, 6, 5, 4, 3]] }).toFloat32Array()
      await model.dispose()
      await remove()
      return values
    }
    expect(maxDifference(await logits(10000), await logits(500000))).toBeGreaterThan(1e-3)
  })

  it('16: there is a KV cache, and the attention mask counts', async () => {
    const model = await TELlamaForCausalLM.fromPretrained(fixture('fairy-llama'), { device, dtype: 'f32' })
    const { input_ids: inputIds, attention_mask: attentionMask } = golden.left_padded
    const ones = attentionMask.map((row) => row.map(() => 1))
    const last = async (mask: number[][]) => (await model.forward({ inputIds, attentionMask: mask }).toFloat32Array()).slice(-model.info.vocabSize * inputIds[0]!.length)
    expect(maxDifference(await last(attentionMask), await last(ones))).toBeGreaterThan(1e-2)

    // Every token by the cache against one full forward.
    const ids = [...rows[0]!, ...golden.greedy_64[0]!]
    const want = await model.forward({ inputIds: [ids] }).toFloat32Array()
    const params = model.createInferenceParams({ maxBatchSize: 1, maxSequenceLength: ids.length })
    for (const [t, id] of ids.entries()) {
      params.preStep(new Map([[0, 1]]))
      const got = await model.step(i32(device, [id]), params).toFloat32Array()
      expect(maxDifference(got, want.subarray(t * 2048, (t + 1) * 2048))).toBeLessThan(1e-4)
    }
    params.dispose()
    await model.dispose()
  })
})

describe('TELlamaForCausalLM', () => {
  it('keeps a bf16 checkpoint in bf16 whatever the activations are, and reports its bytes', async () => {
    const model = await TELlamaForCausalLM.fromPretrained(fixture('fairy-llama'), { device, dtype: 'f32' })
    const c = model.config
    const perLayer = 2 * (c.hiddenSize * c.headDim * 2 * (c.numAttentionHeads + c.numKeyValueHeads) + 3 * c.hiddenSize * c.intermediateSize) + 4 * 2 * c.hiddenSize
    expect(model.memory().weightsBytes).toBe(c.numHiddenLayers * perLayer + 2 * 2 * c.vocabSize * c.hiddenSize + 4 * c.hiddenSize)
    await model.dispose()
  })

  it('reports progress, stops at an abort with its reason, and frees what it had', async () => {
    await device.synchronize()
    const before = device.memoryStats().allocatedBytes
    const controller = new AbortController()
    const reason = new Error('enough')
    const seen: number[] = []
    const load = TELlamaForCausalLM.fromPretrained(fixture('fairy-llama'), {
      device,
      signal: controller.signal,
      onProgress: ({ doneBytes, totalBytes }) => {
        seen.push(doneBytes / totalBytes)
        if (seen.length === 20) controller.abort(reason)
      },
    })
    await expect(load).rejects.toBe(reason)
    expect(seen.length).toBeGreaterThanOrEqual(20)
    expect(seen.every((share, i) => share > (seen[i - 1] ?? 0) && share < 1)).toBe(true)
    await device.synchronize()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })

  it('makes the same random weights from the same seed, and others from another', async () => {
    const config = parseConfig({ model_type: 'llama', vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_attention_heads: 4, num_key_value_heads: 2, num_hidden_layers: 2 })
    const logits = async (seed: number, fuseQkvParams = false) => {
      const model = new TELlamaForCausalLM(config, { device, dtype: 'f32', seed, fuseQkvParams })
      const values = [...(await model.forward({ inputIds: [[1, 2, 3]] }).toFloat32Array())]
      await model.dispose()
      return values
    }
    const first = await logits(1)
    expect(first.some((x) => Math.abs(x) > 1e-4)).toBe(true)
    expect(await logits(1, true)).toEqual(first)
    expect(await logits(2)).not.toEqual(first)
  })

  it('refuses a Gemma config', () => {
    expect(() => new TELlamaForCausalLM(parseConfig({ model_type: 'gemma2' }), { device, initialize: false })).toThrowError(expect.objectContaining({ code: 'UNSUPPORTED_MODEL' }))
  })
})
