import { openDevice, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { DecoderWeights } from './decoder-weights.js'
import { RMSNorm } from './norm.js'
import { TransformerLayer } from './transformer-layer.js'
import { Vocabulary } from './vocabulary.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const HIDDEN = 8
const MAP = [
  { name: 'embed', address: 'embed_tokens.weight' },
  { name: 'q', address: 'layers.0.self_attention.layernorm_qkv.weight.query' },
  { name: 'o', address: 'layers.0.self_attention.proj.weight' },
  { name: 'norm', address: 'norm.weight', optional: true },
  { name: 'head', address: 'lm_head.weight' },
]

function make(dtype: 'f32' | 'bf16' = 'f32', weightDtype: 'f32' | 'bf16' = 'bf16') {
  const layer = new TransformerLayer({ device, dtype, weightDtype, hiddenSize: HIDDEN, ffnHiddenSize: 16, numAttentionHeads: 2, numGqaGroups: 1, normalization: 'RMSNorm', activation: 'swiglu', bias: false, initialize: false })
  const vocabulary = new Vocabulary({ device, dtype, weightDtype, info: { vocabSize: 10, hiddenSize: HIDDEN }, tieWordEmbeddings: false })
  const norm = new RMSNorm({ device, normalizedShape: HIDDEN })
  const weights = new DecoderWeights({ layers: [layer], vocabulary, norm, weightMap: MAP, dtype })
  return { weights, layer, vocabulary, [Symbol.dispose]: () => [layer, vocabulary, norm].forEach((part) => part.dispose()) }
}
const source = (dtype: 'f32') => ({ name: 'q', path: '', offset: 0, byteLength: 0, dtype, shape: [] })

describe('DecoderWeights', () => {
  it('names parameters in the order of a forward', () => {
    using made = make()
    const paths = [...made.weights.byPath.keys()]
    expect([paths[0], ...paths.slice(-2)]).toEqual(['embed_tokens.weight', 'norm.weight', 'lm_head.weight'])
    expect(paths.slice(1, -2).every((path) => path.startsWith('layers.0.'))).toBe(true)
    expect(made.weights.linears.map(({ name }) => name)).toEqual([...made.layer.linears().map(([path]) => `layers.0.${path}`), 'lm_head'])
    expect(made.weights.calibrated()).toEqual(made.weights.linears.slice(0, -1))
  })

  it('knows what a checkpoint calls each segment of a projection; a segment without a name there keeps its address', () => {
    using made = make()
    const slots = new Map(made.weights.linears.map(({ linear, slots: names }) => [linear, names]))
    const qkv = 'layers.0.self_attention.layernorm_qkv.weight'
    expect(slots.get(made.weights.linears.find(({ linear }) => linear.weight === made.weights.byPath.get(qkv))!.linear)).toEqual(['q', `${qkv}.key`, `${qkv}.value`])
    expect(slots.get(made.vocabulary.head!)).toEqual(['head'])
  })

  it('describes slots: matrices of layers and head may be quantized', () => {
    using made = make()
    expect(made.weights.slots()).toEqual([
      { name: 'embed', shape: [10, HIDDEN], quantizable: false },
      { name: 'q', shape: [HIDDEN, HIDDEN], quantizable: true },
      { name: 'o', shape: [HIDDEN, HIDDEN], quantizable: true },
      { name: 'norm', shape: [HIDDEN], quantizable: false, optional: true },
      { name: 'head', shape: [10, HIDDEN], quantizable: true },
    ])
  })

  it('gives a parameter by its checkpoint name and refuses others', () => {
    using made = make()
    using o = made.weights.parameter('o')
    expect(o.shape).toEqual([HIDDEN, HIDDEN])
    expect(() => made.weights.parameter('layers.0.self_attention.proj.weight')).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'name' }))
  })

  it('makes room for float32 replacements where activations are float32, there alone', () => {
    for (const [dtype, widened] of [['f32', 'f32'], ['bf16', 'bf16']] as const) {
      using made = make(dtype)
      const { byPath } = made.weights
      made.weights.makeRoomFor(new Map([['q', source('f32')]]))
      expect(byPath.get('layers.0.self_attention.layernorm_qkv.weight')!.dtype).toBe(widened)
      expect(byPath.get('layers.0.self_attention.proj.weight')!.dtype).toBe('bf16')
    }
  })

  it('counts a shared parameter once', () => {
    using made = make()
    const { embedding, head } = made.vocabulary
    const norm = { weight: embedding }
    const shared = new DecoderWeights({ layers: [], vocabulary: { embedding, head: undefined }, norm, weightMap: [], dtype: 'f32' })
    expect(shared.byteLength).toBe(10 * HIDDEN * 2)
    expect(new DecoderWeights({ layers: [], vocabulary: { embedding, head }, norm, weightMap: [], dtype: 'f32' }).byteLength).toBe(2 * 10 * HIDDEN * 2)
  })
})
