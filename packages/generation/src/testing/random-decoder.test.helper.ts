import type { Device } from '@octet-llm/kernels'
import { DecoderForCausalLM, RotaryPositionEmbedding, TransformerLayer } from '@octet-llm/transformer'

const V = 97
const HIDDEN = 32
const LAYERS = 2
const HEADS = 4
const KV_HEADS = 2
const D = 8

/** A small float32 Llama-like decoder of random weights, wide enough in its logits that choices are clear. */
export function randomDecoder(device: Device, seed = 1): DecoderForCausalLM {
  const rope = new RotaryPositionEmbedding({ device, dim: D })
  const layers = Array.from({ length: LAYERS }, (_, i) => new TransformerLayer({
    device, dtype: 'f32', hiddenSize: HIDDEN, ffnHiddenSize: 48, numAttentionHeads: HEADS, numGqaGroups: KV_HEADS, kvChannels: D,
    normalization: 'RMSNorm', activation: 'swiglu', bias: false, selfAttnMaskType: 'causal', layerNumber: i + 1, seed: seed * 100 + i, initStd: 0.3,
  }))
  return new DecoderForCausalLM({
    device, dtype: 'f32', layers, ropes: layers.map(() => rope), layernormEpsilon: 1e-6, tieWordEmbeddings: false, weightMap: [], seed, initStd: 0.5,
    info: {
      modelType: 'llama', vocabSize: V, hiddenSize: HIDDEN, numLayers: LAYERS, numHeads: HEADS, numKvHeads: KV_HEADS, headDim: D,
      maxPositionEmbeddings: 512, dtype: 'f32', bosTokenId: null, eosTokenIds: [], padTokenId: null,
    },
  })
}
