import type { ModelType } from './model-config.js'

/** What transformers assumes of a model_type when its file says nothing. */
export interface Family {
  readonly modelType: ModelType
  /** The text model's fields lie under `text_config`. */
  readonly nested: boolean
  readonly tied: boolean
  /** Every how many layers one is full and the others slide; undefined where none slides. */
  readonly slidingPattern?: number
  readonly tokens: { readonly bos: number; readonly eos: number; readonly pad: number | null }
  readonly defaults: {
    readonly vocabSize: number
    readonly hiddenSize: number
    readonly intermediateSize: number
    readonly numHiddenLayers: number
    readonly numAttentionHeads: number
    /** Undefined: as many as query heads. */
    readonly numKeyValueHeads?: number
    /** Undefined: hidden size / heads. */
    readonly headDim?: number
    readonly maxPositionEmbeddings: number
    readonly slidingWindow?: number
    /** Of full-attention layers. */
    readonly ropeTheta: number
  }
}

const GEMMA_TOKENS = { bos: 2, eos: 1, pad: 0 }

const GEMMA: Family = {
  modelType: 'gemma',
  nested: false,
  tied: true,
  tokens: GEMMA_TOKENS,
  defaults: {
    vocabSize: 256_000,
    hiddenSize: 3072,
    intermediateSize: 24_576,
    numHiddenLayers: 28,
    numAttentionHeads: 16,
    numKeyValueHeads: 16,
    headDim: 256,
    maxPositionEmbeddings: 8192,
    ropeTheta: 1e4,
  },
}

const GEMMA2: Family = {
  modelType: 'gemma2',
  nested: false,
  tied: true,
  slidingPattern: 2,
  tokens: GEMMA_TOKENS,
  defaults: {
    vocabSize: 256_000,
    hiddenSize: 2304,
    intermediateSize: 9216,
    numHiddenLayers: 26,
    numAttentionHeads: 8,
    numKeyValueHeads: 4,
    headDim: 256,
    maxPositionEmbeddings: 8192,
    slidingWindow: 4096,
    ropeTheta: 1e4,
  },
}

const GEMMA3_TEXT: Family = {
  ...GEMMA2,
  modelType: 'gemma3_text',
  slidingPattern: 6,
  defaults: { ...GEMMA2.defaults, vocabSize: 262_208, maxPositionEmbeddings: 131_072, ropeTheta: 1e6 },
}

const LLAMA: Family = {
  modelType: 'llama',
  nested: false,
  tied: false,
  tokens: { bos: 1, eos: 2, pad: null },
  defaults: {
    vocabSize: 32_000,
    hiddenSize: 4096,
    intermediateSize: 11_008,
    numHiddenLayers: 32,
    numAttentionHeads: 32,
    maxPositionEmbeddings: 2048,
    ropeTheta: 1e4,
  },
}

/** By `model_type`. */
export const FAMILIES: ReadonlyMap<string, Family> = new Map([
  ['gemma', GEMMA],
  ['gemma2', GEMMA2],
  ['gemma3_text', GEMMA3_TEXT],
  ['gemma3', { ...GEMMA3_TEXT, nested: true }],
  ['llama', LLAMA],
])
