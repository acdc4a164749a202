import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeSafetensors, type TensorEntry } from '@octet-llm/hf-loader/safetensors'
import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { TEGemmaForCausalLM } from './model.js'
import { fixture } from './testing/goldens.test.util.js'

const [EMBEDDING, HEAD] = ['model.embed_tokens.weight', 'lm_head.weight']
const IDS = [[2, 17, 301, 9]]

let device: Device
let dir: string
let count = 0
let base: { embedding: Float32Array; shape: readonly number[]; logits: Float32Array }

async function loaded(adapter?: string): Promise<{ tied: boolean; embedding: Float32Array; head: Float32Array; shape: readonly number[]; logits: Float32Array }> {
  await using model = await TEGemmaForCausalLM.fromPretrained(fixture('fairy-gemma'), { device, dtype: 'f32', adapter })
  using logits = model.forward({ inputIds: IDS })
  const { tieWordEmbeddings: tied } = model
  const embedding = model.parameter(EMBEDDING)
  const head = tied ? embedding : model.parameter(HEAD)
  return { tied, embedding: await embedding.toFloat32Array(), head: await head.toFloat32Array(), shape: [...embedding.shape], logits: await logits.toFloat32Array() }
}

async function adapter(config: object, entries: readonly (readonly [name: string, shape: readonly number[], data: Float32Array])[]): Promise<string> {
  const folder = await mkdtemp(join(dir, `${count++}-`))
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', r: 1, lora_alpha: 2, ...config }))
  await writeSafetensors(join(folder, 'adapter_model.safetensors'), entries.map(([name, shape, data]): TensorEntry => ({ name: `base_model.model.${name}`, dtype: 'f32', shape: [...shape], data })))
  return folder
}

/** By bits: a matcher takes seconds over a table of this size. */
const same = (a: Float32Array, b: Float32Array): boolean => Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0
const twice = (values: Float32Array): Float32Array => values.map((v) => 2 * v)

beforeAll(async () => {
  device = await openDevice('cpu')
  dir = await mkdtemp(join(tmpdir(), 'octet-adapter-'))
  base = await loaded()
})
afterAll(async () => {
  await device.dispose()
  await rm(dir, { recursive: true, force: true })
})

describe('an adapter of a model whose head is its embedding', () => {
  it('trained the head alone: the embedding stays, as in peft', async () => {
    const got = await loaded(await adapter({ modules_to_save: ['lm_head'] }, [[HEAD, base.shape, twice(base.embedding)]]))
    expect([got.tied, same(got.embedding, base.embedding), same(got.logits, twice(base.logits))]).toEqual([false, true, true])
  })

  it('trained the embedding alone: the head stays', async () => {
    const got = await loaded(await adapter({ modules_to_save: ['embed_tokens'] }, [[EMBEDDING, base.shape, twice(base.embedding)]]))
    expect([got.tied, same(got.embedding, twice(base.embedding)), same(got.head, base.embedding)]).toEqual([false, true, true])
  })

  it('gave the head factors: they are added to a copy', async () => {
    const [V, D] = base.shape as [number, number]
    const [a, b] = [Float32Array.from({ length: D }, (_, i) => (i % 5) - 2), Float32Array.from({ length: V }, (_, i) => (i % 7) / 8)]
    const factors = [['lm_head.lora_A.weight', [1, D], a], ['lm_head.lora_B.weight', [V, 1], b]] as const
    const got = await loaded(await adapter({}, [...factors, ['lm_head.base_layer.weight', base.shape, base.embedding]]))
    const want = base.embedding.map((v, i) => Math.fround(v + Math.fround(2 * b[Math.floor(i / D)]! * a[i % D]!)))
    expect([got.tied, same(got.embedding, base.embedding), same(got.head, want)]).toEqual([false, true, true])
  })

  it('keeps them one where the adapter says so', async () => {
    const got = await loaded(await adapter({ modules_to_save: ['embed_tokens'], ensure_weight_tying: true }, [[EMBEDDING, base.shape, twice(base.embedding)], [HEAD, base.shape, twice(base.embedding)]]))
    expect([got.tied, same(got.embedding, twice(base.embedding))]).toEqual([true, true])
  })
})
