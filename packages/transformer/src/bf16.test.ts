import { roundBf16 } from '@octet-llm/core'
import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams } from '@octet-llm/kv-cache'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { ReferenceLayer } from './reference-layer.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'
import { importState } from './state.js'
import { readFixture } from './testing/fixtures.test.util.js'
import { denseContext, oracleOptions, plainWeights } from './testing/layer.test.util.js'
import { difference, oracleLayer } from './testing/oracle.test.util.js'
import { TransformerLayer, type TransformerLayerOptions } from './transformer-layer.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const shared: Omit<TransformerLayerOptions, 'device'> = { hiddenSize: 192, ffnHiddenSize: 512, numAttentionHeads: 4, normalization: 'RMSNorm', bias: false, dtype: 'bf16', initialize: false }
const models = [
  {
    folder: 'fairy-gemma',
    layers: 5,
    theta: 10000,
    scale: 13.875,
    options: { ...shared, numGqaGroups: 1, kvChannels: 128, zeroCenteredGamma: true, activation: 'geglu', layernormEpsilon: 1e-6 } satisfies Omit<TransformerLayerOptions, 'device'>,
  },
  {
    folder: 'fairy-llama',
    layers: 6,
    theta: 500000,
    scale: 1,
    options: { ...shared, numAttentionHeads: 6, numGqaGroups: 2, kvChannels: 32, castBeforeWeight: true, activation: 'swiglu', layernormEpsilon: 1e-5 } satisfies Omit<TransformerLayerOptions, 'device'>,
  },
]

const NAMES = [
  ['self_attention.layernorm_qkv.layer_norm_weight', 'input_layernorm'],
  ['self_attention.layernorm_qkv.query_weight', 'self_attn.q_proj'],
  ['self_attention.layernorm_qkv.key_weight', 'self_attn.k_proj'],
  ['self_attention.layernorm_qkv.value_weight', 'self_attn.v_proj'],
  ['self_attention.proj.weight', 'self_attn.o_proj'],
  ['layernorm_mlp.layer_norm_weight', 'post_attention_layernorm'],
  ['layernorm_mlp.fc2_weight', 'mlp.down_proj'],
] as const

const ids = Array.from({ length: 40 }, (_, i) => (i * 97 + 31) % 2048)

function loadLayer(folder: ReadonlyMap<string, Float32Array>, i: number, options: Omit<TransformerLayerOptions, 'device'>): TransformerLayer {
  const layer = new TransformerLayer({ ...options, device, layerNumber: i + 1 })
  const tensor = (...names: string[]) => Float32Array.from(names.flatMap((name) => [...folder.get(`model.layers.${i}.${name}.weight`)!]))
  const data = new Map<string, Float32Array>(NAMES.map(([te, hf]) => [te, tensor(hf)]))
  data.set('layernorm_mlp.fc1_weight', tensor('mlp.gate_proj', 'mlp.up_proj'))
  const shapes = new Map(layer.stateEntries().map((entry) => [entry.name, entry.weight.view(entry.segment).shape]))
  importState(layer, new Map([...data].map(([name, values]) => [name, { dtype: 'f32', shape: shapes.get(name)!, data: new Uint8Array(values.buffer) }])))
  return layer
}

describe.each(models)('bf16 error against float64, $folder', ({ folder, layers, theta, scale, options }) => {
  it('each fused layer’s is at most twice the unfused layer’s, without and with a cache', async () => {
    const weights = readFixture(folder)
    const rope = new RotaryPositionEmbedding({ device, dim: options.kvChannels, base: theta })
    const table = weights.get('model.embed_tokens.weight')!
    let hidden: Float64Array = Float64Array.from(ids.flatMap((id) => [...table.subarray(id * 192, (id + 1) * 192)].map((x) => x * scale)))
    const ctx = denseContext(device, ids.length, rope)
    for (let i = 0; i < layers; i++) {
      const layer = loadLayer(weights, i, options)
      const x = hidden.map(roundBf16)
      const want = oracleLayer(x, oracleOptions(layer.options, rope), await plainWeights(layer))
      const input = Tensor.from(x, { shape: [ids.length, 192], dtype: 'bf16', device })
      const error = async (run: TransformerLayer | ReferenceLayer, cached: boolean) => {
        const inferenceParams = cached ? new InferenceParams({ device, numLayers: layers, maxBatchSize: 1, maxSequenceLength: 64, numHeadsKv: options.numGqaGroups, headDimK: options.kvChannels, dtype: 'bf16' }) : undefined
        inferenceParams?.preStep(new Map([[0, ids.length]]))
        const y = run.run(input, inferenceParams === undefined ? ctx : { ...ctx, inferenceParams })
        const d = difference(await y.toFloat32Array(), want)
        inferenceParams?.dispose()
        return d
      }
      for (const cached of [false, true]) {
        const fused = await error(layer, cached)
        const unfused = await error(new ReferenceLayer(layer), cached)
        expect(fused.rms).toBeLessThanOrEqual(2 * unfused.rms)
        expect(fused.max).toBeLessThanOrEqual(2 * unfused.max)
        // The unfused error itself is bf16's: a couple of roundings of 2^-9 of the values' size.
        const size = Math.sqrt(want.reduce((sum, v) => sum + v * v, 0) / want.length)
        expect(unfused.rms).toBeGreaterThan(0)
        expect(unfused.rms).toBeLessThan(8 * 2 ** -9 * size)
      }
      hidden = want
      layer.dispose()
    }
    ctx.dispose()
  })
})
