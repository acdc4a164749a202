import type { Device } from '@octet-llm/kernels'
import { DecoderForCausalLM, RotaryPositionEmbedding, TransformerLayer, type Fp8Inference } from '@octet-llm/transformer'

const V = 97
const LAYERS = 2
const HEADS = 4
const KV_HEADS = 2
const D = 8

export interface RandomDecoderOptions {
  readonly seed?: number
  /** Default 'f32'. */
  readonly dtype?: 'f32' | 'bf16'
  readonly fp8?: Fp8Inference | undefined
  readonly decoderLayer?: 'te' | 'reference'
  /** Default 32; past 128 a row has several scales of 1×128, one of them of a ragged block. */
  readonly hidden?: number
}

/** A small Llama-like decoder of random weights, wide enough in its logits that choices are clear. */
export function randomDecoder(device: Device, options: RandomDecoderOptions = {}): DecoderForCausalLM {
  const { seed = 1, dtype = 'f32', fp8, decoderLayer, hidden = 32 } = options
  const rope = new RotaryPositionEmbedding({ device, dim: D })
  const layers = Array.from({ length: LAYERS }, (_, i) => new TransformerLayer({
    device, dtype, fp8, hiddenSize: hidden, ffnHiddenSize: 1.5 * hidden, numAttentionHeads: HEADS, numGqaGroups: KV_HEADS, kvChannels: D,
    normalization: 'RMSNorm', activation: 'swiglu', bias: false, selfAttnMaskType: 'causal', layerNumber: i + 1, seed: seed * 100 + i, initStd: 0.3,
  }))
  return new DecoderForCausalLM({
    device, dtype, fp8, decoderLayer, layers, ropes: layers.map(() => rope), layernormEpsilon: 1e-6, tieWordEmbeddings: false, weightMap: [], seed, initStd: 0.5,
    info: {
      modelType: 'llama', vocabSize: V, hiddenSize: hidden, numLayers: LAYERS, numHeads: HEADS, numKvHeads: KV_HEADS, headDim: D,
      maxPositionEmbeddings: 512, dtype, bosTokenId: null, eosTokenIds: [], padTokenId: null,
    },
  })
}
