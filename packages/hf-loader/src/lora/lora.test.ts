import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readConfig } from '../config/index.js'
import { slotsOf } from '../checkpoint/model.test-helper.js'
import { writeSafetensors, type TensorEntry } from '../safetensors/index.js'
import { failsOnlyWith, fixture, FUZZ_TIMEOUT, fuzzCases, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { checkLoraAdapter, openLoraAdapter, type LoraAdapter } from './index.js'

const temp = useTempFolder()
let folders = 0

const f32 = (name: string, ...shape: number[]): TensorEntry => ({ name: `base_model.model.${name}`, dtype: 'f32', shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) })
const pair = (module: string, r = 4, out = 6, width = 5): TensorEntry[] => [f32(`${module}.lora_A.weight`, r, width), f32(`${module}.lora_B.weight`, out, r)]

async function adapter(config: object, entries: readonly TensorEntry[] = pair('model.layers.0.self_attn.q_proj')): Promise<LoraAdapter> {
  const dir = temp.path(`adapter-${folders++}`)
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', r: 4, lora_alpha: 8, ...config }))
  await writeSafetensors(join(dir, 'adapter_model.safetensors'), entries)
  return openLoraAdapter(dir)
}

const Q = 'model.layers.0.self_attn.q_proj.weight'

describe('openLoraAdapter', () => {
  it('reads what peft wrote', async () => {
    const lora = await openLoraAdapter(fixture('lora-fairy-llama'))
    expect(lora.config).toMatchObject({ r: 8, alpha: 16, useRslora: false, targetModules: ['q_proj', 'down_proj', 'v_proj'], modulesToSave: [] })
    expect(lora.modules.size).toBe(18)
    expect(lora.modules.get('model.layers.5.mlp.down_proj.weight')).toMatchObject({ r: 8, scaling: 2, a: { shape: [8, 512], dtype: 'f32' }, b: { shape: [192, 8] } })
    expect(lora.replacements.size).toBe(0)
    checkLoraAdapter(lora, slotsOf(await readConfig(fixture('fairy-llama'))))
    await octetError(async () => checkLoraAdapter(lora, slotsOf(await readConfig(fixture('fairy-gemma')))), 'CHECKPOINT_MISMATCH', /fault.*down_proj|fault.*layers\.5/)
    await octetError(async () => checkLoraAdapter(lora, slotsOf(await readConfig(fixture('variants/llama-rope3')))), 'CHECKPOINT_MISMATCH', /18 faults.*expected \[64, 64\], received \[192, 192\]/)
  })

  it('scales by alpha / r, by its root with rslora, and by pattern', async () => {
    const scaling = async (config: object, module = 'model.layers.0.self_attn.q_proj', r = 4): Promise<number> => (await adapter(config, pair(module, r))).modules.get(`${module}.weight`)!.scaling
    expect(await scaling({})).toBe(2)
    expect(await scaling({ use_rslora: true })).toBe(4)
    expect(await scaling({ lora_alpha: 3 })).toBe(0.75)
    expect(await scaling({ alpha_pattern: { q_proj: 16 } })).toBe(4)
    expect(await scaling({ alpha_pattern: { 'layers.0.self_attn.q_proj': 16, q_proj: 99 } })).toBe(4)
    expect(await scaling({ alpha_pattern: { proj: 16, 'layers.1.self_attn.q_proj': 16, '^q_proj': 16 } })).toBe(2)
    expect(await scaling({ alpha_pattern: { '^model\\.layers\\.0\\.self_attn\\.q_proj': 16 } })).toBe(4)
    expect(await scaling({ rank_pattern: { q_proj: 2 } }, undefined, 2)).toBe(4)
    await octetError(scaling({ alpha_pattern: { '(a+)+$': 16 } }), 'NOT_SUPPORTED', /alpha_pattern/)
  })

  it('knows names of nested models, of adapters by name, and of modules saved whole', async () => {
    const named = await adapter({}, [f32('model.layers.0.self_attn.q_proj.lora_A.default.weight', 4, 5), f32('model.layers.0.self_attn.q_proj.lora_B.default.weight', 6, 4)])
    expect([...named.modules.keys()]).toEqual([Q])
    expect([...(await adapter({}, pair('model.language_model.layers.0.self_attn.q_proj'))).modules.keys()]).toEqual([Q])
    const whole = await adapter({ modules_to_save: ['lm_head'] }, [...pair('model.layers.0.self_attn.q_proj'), f32('lm_head.weight', 3, 2)])
    expect([...whole.replacements.keys()]).toEqual(['lm_head.weight'])
    await octetError(() => checkLoraAdapter(whole, [{ name: Q, shape: [6, 5] }, { name: 'lm_head.weight', shape: [3, 3] }]), 'CHECKPOINT_MISMATCH', /1 faults: "lm_head\.weight" expected \[3, 3\]/)
    checkLoraAdapter(whole, [{ name: Q, shape: [6, 5] }, { name: 'lm_head.weight', shape: [3, 2] }])
  })

  it('refuses factors that belong to weights which their start has moved, and factors of embeddings', async () => {
    for (const start of ['pissa', 'pissa_niter_16', 'olora', 'corda', 'loftq', 'lora_ga']) await octetError(adapter({ init_lora_weights: start }), 'NOT_SUPPORTED', /init_lora_weights/)
    for (const start of [true, false, 'gaussian', 'eva', 'orthogonal']) expect((await adapter({ init_lora_weights: start })).modules.size).toBe(1)
    const embedding = [f32('model.embed_tokens.lora_embedding_A', 4, 8), f32('model.embed_tokens.lora_embedding_B', 6, 4)]
    await octetError(adapter({}, [...pair('model.layers.0.self_attn.q_proj'), ...embedding]), 'NOT_SUPPORTED', /factors of an embedding/)
  })

  it("takes the head's own weight that peft saves beside its factors", async () => {
    const head = await adapter({}, [...pair('lm_head'), f32('lm_head.base_layer.weight', 6, 5)])
    expect([[...head.modules.keys()], [...head.replacements.keys()]]).toEqual([['lm_head.weight'], ['lm_head.weight']])
    await octetError(adapter({}, [...pair('lm_head'), f32('model.norm.base_layer.weight', 6)]), 'CHECKPOINT_MISMATCH', /norm\.base_layer\.weight" is no LoRA factor/)
  })

  it.each<[string, TensorEntry[], RegExp]>([
    ['half a pair', [f32('m.lora_A.weight', 4, 5)], /"m" has one factor of two/],
    ['another rank than the config says', pair('m', 2), /factors \[2, 5\] and \[6, 2\] for rank 4/],
    ['unlike ranks', [f32('m.lora_A.weight', 4, 5), f32('m.lora_B.weight', 6, 3)], /for rank 4/],
    ['a vector for a factor', [f32('m.lora_A.weight', 4), f32('m.lora_B.weight', 6, 4)], /of shape \[4\]/],
    ['integers', [{ ...f32('m.lora_A.weight', 4, 5), dtype: 'i32' }, f32('m.lora_B.weight', 6, 4)], /in i32/],
    ['a tensor of another kind', [...pair('m'), f32('m.lora_magnitude_vector', 6)], /no LoRA factor/],
    ['a weight that was not saved whole', [...pair('m'), f32('lm_head.weight', 6, 2)], /no LoRA factor/],
    ['names without the prefix', [{ ...f32('x', 4, 5), name: 'm.lora_A.weight' }], /no LoRA factor/],
    ['nothing', [], /no factors/],
  ])('refuses %s', async (_, entries, message) => {
    await octetError(adapter({}, entries), 'CHECKPOINT_MISMATCH', message)
  })

  it.each([{ peft_type: 'IA3' }, { use_dora: true }, { bias: 'all' }, { fan_in_fan_out: true }, { lora_bias: true }, { layer_replication: [[0, 1]] }, { use_qalora: true }, { alora_invocation_tokens: [1] }])('refuses %j', async (config) => {
    await octetError(adapter(config), 'NOT_SUPPORTED', new RegExp(Object.keys(config)[0]!))
  })

  it.each([{ r: 0 }, { r: 1.5 }, { lora_alpha: 'x' }, { rank_pattern: [] }, { rank_pattern: { q: 0 } }, { modules_to_save: 'lm_head' }, { use_rslora: 1 }])('refuses the field of %j', async (config) => {
    await octetError(adapter(config), 'INVALID_CONFIG', new RegExp(Object.keys(config)[0]!))
  })

  it('says what is missing', async () => {
    await octetError(openLoraAdapter(fixture('fairy-llama')), 'FILE_NOT_FOUND', /adapter_config\.json/)
    const dir = temp.path('empty')
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, 'adapter_config.json'), '{}')
    await octetError(openLoraAdapter(dir), 'FILE_NOT_FOUND', /adapter_model\.safetensors/)
  })

  it('gives one error or a sound adapter for any mutated config', async () => {
    const text = await readFile(fixture('lora-fairy-llama/adapter_config.json'), 'utf8')
    const dir = temp.path('fuzz')
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, 'adapter_model.safetensors'), await readFile(fixture('lora-fairy-llama/adapter_model.safetensors')))
    const edit = fc.tuple(fc.nat(), fc.nat({ max: 20 }), fc.oneof(fc.string({ maxLength: 5 }), fc.constantFrom('null', 'true', '-1', '{', '"', '[]', '1e9')))
    await fc.assert(fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), (edits) => failsOnlyWith(async () => {
      await writeFile(join(dir, 'adapter_config.json'), edits.reduce((all, [at, cut, put]) => all.slice(0, at % all.length) + put + all.slice((at % all.length) + cut), text))
      const { modules } = await openLoraAdapter(dir)
      for (const { scaling } of modules.values()) expect(Number.isFinite(scaling)).toBe(true)
    }, ['INVALID_JSON', 'INVALID_CONFIG', 'NOT_SUPPORTED', 'CHECKPOINT_MISMATCH'])), { numRuns: fuzzCases(200) })
  }, FUZZ_TIMEOUT)
})
