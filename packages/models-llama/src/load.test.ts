import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { f32ToBf16, f32ToF16, f16ToF32, type DType } from '@octet-llm/core'
import { openSafetensors, writeSafetensors } from '@octet-llm/hf-loader/safetensors'
import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

import { TELlamaForCausalLM } from './model.js'
import { fixture, maxDifference } from './testing/goldens.test.util.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const made: string[] = []
afterEach(async () => {
  for (const dir of made.splice(0)) await rm(dir, { recursive: true })
})

const encoders: Record<'f32' | 'bf16' | 'f16', (x: Float32Array) => ArrayBufferView> = {
  f32: (x) => x,
  bf16: (x) => Uint16Array.from(x, f32ToBf16),
  f16: (x) => Uint16Array.from(x, f32ToF16),
}

type Change = (name: string, values: Float32Array) => { dtype: 'f32' | 'bf16' | 'f16'; values?: Float32Array }

/** A variant written again with other dtypes, values or tensors. */
async function rewrite(variant: string, change: Change, config: Record<string, unknown> = {}, extra: [string, string, (x: Float32Array) => Float32Array][] = []): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'octet-load-'))
  made.push(dir)
  await cp(fixture(`variants/${variant}`), dir, { recursive: true })
  const file = await openSafetensors(join(dir, 'model.safetensors'))
  const entries: { name: string; dtype: DType; shape: readonly number[]; data: ArrayBufferView }[] = []
  for (const [name, { shape }] of file.tensors) {
    const values = await file.readFloat32(name)
    const { dtype, values: next = values } = change(name, values)
    entries.push({ name, dtype, shape, data: encoders[dtype](next) })
    for (const [copy, from, edit] of extra) if (from === name) entries.push({ name: copy, dtype: 'f32', shape, data: edit(values) })
  }
  await file.close()
  await writeSafetensors(join(dir, 'model.safetensors'), entries, { metadata: { format: 'pt' } })
  const json = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>
  await writeFile(join(dir, 'config.json'), JSON.stringify({ ...json, ...config }))
  return dir
}

const ids = [1, 17, 200, 3, 99, 42]

async function load(dir: string, dtype: 'auto' | 'f32' | 'bf16' = 'auto') {
  const model = await TELlamaForCausalLM.fromPretrained(dir, { device, dtype })
  const logits = await model.forward({ inputIds: [ids] }).toFloat32Array()
  const weight = model.weights.get('layers.0.layernorm_mlp.fc2_weight')!.dtype
  const { tieWordEmbeddings } = model
  const { dtype: activations } = model.info
  await model.dispose()
  return { logits, weight, activations, tieWordEmbeddings }
}

describe('dtypes of a checkpoint', () => {
  it('f16 stays f16 under float32 activations, exactly', async () => {
    const toF16 = (x: Float32Array) => x.map((v) => f16ToF32(f32ToF16(v)))
    const f16 = await load(await rewrite('llama-headdim', () => ({ dtype: 'f16' }), { torch_dtype: 'float16' }))
    const f32 = await load(await rewrite('llama-headdim', (_, values) => ({ dtype: 'f32', values: toF16(values) }), { torch_dtype: 'float32' }))
    expect([f16.weight, f16.activations, f32.weight, f32.activations]).toEqual(['f16', 'f32', 'f32', 'f32'])
    expect(maxDifference(f16.logits, f32.logits)).toBeLessThan(1e-5)
  })

  it('auto follows the config, then the first weight; bf16 is rounded from wider files', async () => {
    const bf16 = await load(fixture('variants/llama-headdim'))
    const silent = await load(await rewrite('llama-headdim', () => ({ dtype: 'bf16' }), { torch_dtype: null }))
    expect([bf16.weight, bf16.activations, silent.activations]).toEqual(['bf16', 'bf16', 'bf16'])
    const rounded = await load(await rewrite('llama-headdim', () => ({ dtype: 'f32' })), 'bf16')
    expect([rounded.weight, rounded.activations]).toEqual(['bf16', 'bf16'])
    expect([...rounded.logits]).toEqual([...bf16.logits])
  })

  it('a file of several dtypes is stored as float32, without loss', async () => {
    const mixed = await load(await rewrite('llama-headdim', (name) => ({ dtype: name.includes('q_proj') ? 'f32' : 'bf16' })), 'f32')
    const plain = await load(fixture('variants/llama-headdim'), 'f32')
    expect([mixed.weight, plain.weight]).toEqual(['f32', 'bf16'])
    expect(maxDifference(mixed.logits, plain.logits)).toBeLessThan(1e-5)
  })
})

describe('tied heads', () => {
  const keep: Change = () => ({ dtype: 'bf16' })
  const head = (edit: (x: Float32Array) => Float32Array): [string, string, (x: Float32Array) => Float32Array][] => [['lm_head.weight', 'model.embed_tokens.weight', edit]]

  it('a head that differs from the embedding is kept, as transformers 5 does; one that repeats it is not', async () => {
    const tied = await load(fixture('variants/llama-bias-tied'), 'f32')
    const repeated = await load(await rewrite('llama-bias-tied', (_, values) => ({ dtype: 'f32', values }), {}, head((x) => x)), 'f32')
    const own = await load(await rewrite('llama-bias-tied', keep, {}, head((x) => x.map((v) => 2 * v))), 'f32')
    expect([tied.tieWordEmbeddings, repeated.tieWordEmbeddings, own.tieWordEmbeddings]).toEqual([true, true, false])
    expect(maxDifference(repeated.logits, tied.logits)).toBeLessThan(1e-5)
    expect(maxDifference(own.logits, tied.logits.map((v) => 2 * v))).toBeLessThan(1e-4)
  })
})
