import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { exportState, importState, type StateTensor } from './state.js'
import { denseContext, noise, perturb } from './testing/layer.test.util.js'
import { TransformerLayer, type TransformerLayerOptions } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const base: Omit<TransformerLayerOptions, 'device'> = { hiddenSize: 12, ffnHiddenSize: 16, numAttentionHeads: 4, numGqaGroups: 2, kvChannels: 2, dtype: 'f32', seed: 5, activation: 'swiglu' }

const make = (options: Partial<TransformerLayerOptions> = {}) => {
  const layer = new TransformerLayer({ ...base, device, ...options })
  perturb(layer)
  return layer
}

const floats = (t: StateTensor) => new Float32Array(t.data.buffer, t.data.byteOffset, t.data.byteLength / 4)

describe('state names are TransformerEngine’s', () => {
  it.each([
    ['unfused with biases', {}, [
      'self_attention.layernorm_qkv.layer_norm_weight', 'self_attention.layernorm_qkv.layer_norm_bias',
      'self_attention.layernorm_qkv.query_weight', 'self_attention.layernorm_qkv.key_weight', 'self_attention.layernorm_qkv.value_weight',
      'self_attention.layernorm_qkv.query_bias', 'self_attention.layernorm_qkv.key_bias', 'self_attention.layernorm_qkv.value_bias',
      'self_attention.proj.weight', 'self_attention.proj.bias',
      'layernorm_mlp.layer_norm_weight', 'layernorm_mlp.layer_norm_bias',
      'layernorm_mlp.fc1_weight', 'layernorm_mlp.fc1_bias', 'layernorm_mlp.fc2_weight', 'layernorm_mlp.fc2_bias',
    ]],
    ['te_gemma: fused, RMSNorm, no bias', { fuseQkvParams: true, normalization: 'RMSNorm', bias: false }, [
      'self_attention.layernorm_qkv.layer_norm_weight', 'self_attention.layernorm_qkv.weight', 'self_attention.proj.weight',
      'layernorm_mlp.layer_norm_weight', 'layernorm_mlp.fc1_weight', 'layernorm_mlp.fc2_weight',
    ]],
    ['te_llama: unfused, RMSNorm, no bias', { normalization: 'RMSNorm', bias: false }, [
      'self_attention.layernorm_qkv.layer_norm_weight',
      'self_attention.layernorm_qkv.query_weight', 'self_attention.layernorm_qkv.key_weight', 'self_attention.layernorm_qkv.value_weight',
      'self_attention.proj.weight', 'layernorm_mlp.layer_norm_weight', 'layernorm_mlp.fc1_weight', 'layernorm_mlp.fc2_weight',
    ]],
    ['Gemma 3’s own', { normalization: 'RMSNorm', bias: false, fuseQkvParams: true, qkNormType: 'RMSNorm', postNorms: true }, [
      'self_attention.layernorm_qkv.layer_norm_weight', 'self_attention.layernorm_qkv.weight', 'self_attention.q_norm.weight',
      'self_attention.k_norm.weight', 'self_attention.proj.weight', 'layernorm_mlp.layer_norm_weight', 'layernorm_mlp.fc1_weight',
      'layernorm_mlp.fc2_weight', 'post_attention_norm.weight', 'post_mlp_norm.weight',
    ]],
  ] as [string, Partial<TransformerLayerOptions>, string[]][])('%s', (_, options, names) => {
    expect(make(options).stateEntries().map((entry) => entry.name)).toEqual(names)
  })
})

it('biases by part', () => {
  const biased = (bias: TransformerLayerOptions['bias']) => make({ bias, fuseQkvParams: true, normalization: 'RMSNorm' }).stateEntries().map((e) => e.name).filter((name) => name.includes('bias'))
  const [qkv, proj, ...mlp] = ['self_attention.layernorm_qkv.bias', 'self_attention.proj.bias', 'layernorm_mlp.fc1_bias', 'layernorm_mlp.fc2_bias']
  expect(biased(true)).toEqual([qkv, proj, ...mlp])
  expect(biased(false)).toEqual([])
  expect(biased({ qkv: true, proj: false, mlp: false })).toEqual([qkv])
  expect(biased({ qkv: false, proj: true, mlp: false })).toEqual([proj])
  expect(biased({ qkv: false, proj: false })).toEqual(mlp)
})

describe('fused QKV state', () => {
  it.each([
    ['MHA', 4, [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]],
    ['GQA', 2, [[0, 1, 4, 6], [2, 3, 5, 7]]],
    ['MQA', 1, [[0, 1, 2, 3, 4, 5]]],
  ])('%s: rows are interleaved by KV group, each segment head by head', async (_, numGqaGroups, groups) => {
    const plain = await exportState(make({ numGqaGroups }))
    const fused = await exportState(make({ numGqaGroups, fuseQkvParams: true }))
    const joined = (part: string) => ['query', 'key', 'value'].flatMap((s) => [...floats(plain.get(`self_attention.layernorm_qkv.${s}_${part}`)!)])
    const head = (data: number[], h: number, width: number) => data.slice(h * 2 * width, (h + 1) * 2 * width)
    for (const [part, width] of [['weight', 12], ['bias', 1]] as const) {
      const want = groups.flat().flatMap((h) => head(joined(part), h, width))
      expect([...floats(fused.get(`self_attention.layernorm_qkv.${part}`)!)]).toEqual(want)
    }
    const flat = await exportState(make({ numGqaGroups, fuseQkvParams: true, qkvWeightInterleaved: false }))
    expect([...floats(flat.get('self_attention.layernorm_qkv.weight')!)]).toEqual(joined('weight'))
  })

  it('goes out of a fused layer and into a fresh one to the bit, and the layers compute alike', async () => {
    for (const options of [{ fuseQkvParams: true }, { fuseQkvParams: true, qkvWeightInterleaved: false }, {}, { qkNormType: 'LayerNorm', postNorms: true, normalization: 'RMSNorm' }] as const) {
      const from = make(options)
      const state = await exportState(from)
      const to = make({ ...options, seed: 99 })
      importState(to, state)
      const again = await exportState(to)
      for (const [name, tensor] of state) expect([name, Buffer.from(again.get(name)!.data).equals(tensor.data)]).toEqual([name, true])
      const x = Tensor.from(noise(4 * 12, 3), { shape: [4, 12], dtype: 'f32', device })
      const ctx = denseContext(device, 4)
      expect([...(await to.run(x, ctx).toFloat32Array())]).toEqual([...(await from.run(x, ctx).toFloat32Array())])
    }
  })

  it('storage does not depend on how the state is fused: random weights are the same', async () => {
    const query = async (layer: TransformerLayer) => [...(await layer.selfAttention.qkv.weight.view('key').toFloat32Array())]
    expect(await query(make({ fuseQkvParams: true }))).toEqual(await query(make()))
    expect(await query(make({ layerNumber: 2 }))).not.toEqual(await query(make()))
    expect(await query(make({ seed: 6 }))).not.toEqual(await query(make()))
  })
})

describe('random weights', () => {
  it('every logical weight has a stream of its own', async () => {
    const layer = make({ bias: false })
    const firsts: number[] = []
    for (const [, weight] of layer.weights().filter(([, w]) => w.shape.length === 2)) {
      for (const name of weight.segments.length === 0 ? [undefined] : weight.segments.map((s) => s.name)) {
        firsts.push((await weight.view(name).toFloat32Array())[0]!)
      }
    }
    expect([firsts.length, new Set(firsts).size]).toEqual([7, 7])
  })
})

describe('importState', () => {
  it('lists every problem in one error and changes nothing', async () => {
    const layer = make()
    const state = await exportState(layer)
    const first = state.get('self_attention.proj.weight')!
    state.delete('layernorm_mlp.fc2_weight')
    state.set('self_attention.proj.weight', { ...first, shape: [8, 12] })
    state.set('self_attention.proj.bias', { ...state.get('self_attention.proj.bias')!, dtype: 'i32' })
    state.set('layernorm_mlp.fc1_bias', { ...state.get('layernorm_mlp.fc1_bias')!, data: new Uint8Array(4) })
    state.set('lora', first)
    state.set('self_attention.core_attention._extra_state', first)
    state.set('layernorm_mlp.layer_norm_weight', { dtype: 'f32', shape: [12], data: new Uint8Array(48) })
    const before = await exportState(layer)
    expect(() => importState(layer, state)).toThrowError(expect.objectContaining({ code: 'CHECKPOINT_MISMATCH' }))
    expect(() => importState(layer, state)).toThrowError(/5 entries do not fit[^]*proj\.weight: expected \[12, 8\], received \[8, 12\][^]*proj\.bias: expected f32, bf16 or f16, received i32[^]*fc1_bias: expected 128 bytes, received 4[^]*fc2_weight: missing[^]*lora: not a parameter/)
    expect(await exportState(layer)).toEqual(before)
  })

  it('converts dtypes', async () => {
    const state = await exportState(make())
    const layer = make({ weightDtype: 'bf16', dtype: 'f32' })
    importState(layer, state)
    const got = await layer.layernormMlp.fc2.weight.tensor.toFloat32Array()
    const want = floats(state.get('layernorm_mlp.fc2_weight')!)
    for (const [i, x] of got.entries()) expect(Math.abs(x - want[i]!)).toBeLessThanOrEqual(Math.abs(want[i]!) * 2 ** -8)
    expect(layer.layernormMlp.fc2.weight.dtype).toBe('bf16')
  })
})
