import { describe, expect, it } from 'vitest'
import { readKvScales } from './checkpoint-choices.js'

/** A checkpoint that holds `scales` by name. */
function checkpoint(scales: Record<string, number[]>): Parameters<typeof readKvScales>[0] {
  return { sources: new Map(Object.entries(scales)), readFloat32: (name) => Promise.resolve(Float32Array.from(scales[name]!)) }
}

describe('readKvScales', () => {
  it('takes the scales of keys and values by layer, and no other tensor', async () => {
    const found = await readKvScales(checkpoint({ 'model.layers.0.self_attn.k_scale': [0.5], 'model.layers.11.self_attn.v_scale': [2, 4], 'model.layers.0.self_attn.q_scale': [3], 'model.layers.0.mlp.k_scale': [3] }))
    expect([...found!]).toEqual([['layers.0.self_attention.k_scale', Float32Array.of(0.5)], ['layers.11.self_attention.v_scale', Float32Array.of(2, 4)]])
  })

  it('takes what another writer left unset for 1, and nothing but that for no scales', async () => {
    expect(await readKvScales(checkpoint({ 'model.layers.0.self_attn.k_scale': [-1], 'model.layers.0.self_attn.v_scale': [0] }))).toBeUndefined()
    expect(await readKvScales(checkpoint({}))).toBeUndefined()
    const found = await readKvScales(checkpoint({ 'model.layers.0.self_attn.k_scale': [-1, NaN, Infinity, 1e-45], 'model.layers.0.self_attn.v_scale': [0.25] }))
    expect([...found!.values()]).toEqual([Float32Array.of(1, 1, 1, 1), Float32Array.of(0.25)])
  })
})
