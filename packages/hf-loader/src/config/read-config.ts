import { join } from 'node:path'
import { OctetError, type FloatDType } from '@octet-llm/core'
import { isJsonObject, readJsonObject, type JsonObject } from '../io/json-file.js'
import { quoteName } from '../io/names.js'
import type { ReadOptions } from '../io/read-tensor.js'
import { FAMILIES, type Family } from './families.js'
import { Fields, show } from './fields.js'
import type { HiddenActivation, LayerType, ModelConfig } from './model-config.js'
import { readQuantization } from './quantization.js'
import { readRope, type RopeConfig } from './rope.js'

/** JSON.parse takes up to 50 times the text: 32 to 50 MB at worst. Real files have 1 to 100 KB. */
const MAX_CONFIG_BYTES = 2 ** 20

const FILE = 'config.json'

const DTYPES: ReadonlyMap<string, FloatDType> = new Map([
  ['bfloat16', 'bf16'],
  ['float16', 'f16'],
  ['float32', 'f32'],
  ['torch.bfloat16', 'bf16'],
  ['torch.float16', 'f16'],
  ['torch.float32', 'f32'],
])

const ACTIVATIONS: ReadonlyMap<string, HiddenActivation> = new Map([
  ['gelu_pytorch_tanh', 'gelu_pytorch_tanh'],
  ['gelu_new', 'gelu_pytorch_tanh'],
  ['gelu', 'gelu'],
  ['silu', 'silu'],
  ['swish', 'silu'],
  ['relu', 'relu'],
])

const LAYER_TYPES: readonly string[] = ['full_attention', 'sliding_attention'] satisfies LayerType[]

/** Largest dimensions that are taken for real: beyond them a file is damaged or hostile. */
const SIZES = {
  vocab: { min: 1, max: 2 ** 24 },
  width: { min: 1, max: 2 ** 20 },
  layers: { min: 1, max: 2 ** 12 },
  heads: { min: 1, max: 2 ** 12 },
  headDim: { min: 2, max: 2 ** 12 },
  length: { min: 1, max: 2 ** 31 - 1 },
} as const

/**
 * Reads `config.json` of a checkpoint folder.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_JSON`, and those of {@link parseConfig}.
 */
export async function readConfig(dir: string, options: ReadOptions = {}): Promise<ModelConfig> {
  const op = 'readConfig'
  const path = join(dir, FILE)
  return parse(new Fields(op, path, await readJsonObject(path, { op, maxBytes: MAX_CONFIG_BYTES, signal: options.signal })))
}

/**
 * Brings a parsed config.json of transformers 4 or 5 (gemma, gemma2, gemma3_text, gemma3, llama) into one form.
 * `auto_map` is never honoured: no code of a checkpoint runs.
 * @throws OctetError `UNSUPPORTED_MODEL` for another model_type, `INVALID_CONFIG` naming the field that is missing or out
 *   of range, `NOT_SUPPORTED` for a quantization that is not FP8.
 */
export function parseConfig(json: unknown): ModelConfig {
  const op = 'parseConfig'
  if (isJsonObject(json)) return parse(new Fields(op, FILE, json))
  throw new OctetError('INVALID_ARGUMENT', { op, argument: 'json', expected: 'a parsed config.json', received: show(json) })
}

/**
 * config.json of the text model alone, for a folder that holds its tensors and no others: of a multimodal Gemma 3 the
 * fields of `text_config`, else the same object.
 */
export function textConfig(raw: JsonObject): JsonObject {
  const { text_config: text, vision_config: _, ...rest } = raw
  return isJsonObject(text) ? { ...rest, ...text, model_type: 'gemma3_text', architectures: ['Gemma3ForCausalLM'] } : raw
}

function parse(root: Fields): ModelConfig {
  const fileModelType = root.string('model_type') ?? root.fail('model_type', 'a string', 'nothing')
  const family = FAMILIES.get(fileModelType)
  if (family === undefined) throw unsupportedModel(root, fileModelType)
  const text = family.nested ? (root.child('text_config') ?? root.fail('text_config', 'an object', 'nothing')) : root
  const notes: string[] = []
  if (root.value('auto_map') !== undefined) notes.push('auto_map is ignored: code of a checkpoint is never run')
  const sizes = readSizes(text, family)
  const layerTypes = readLayerTypes(text, family, sizes.numHiddenLayers)
  const quantization = root.child('quantization_config') ?? text.child('quantization_config')
  return {
    modelType: family.modelType,
    fileModelType,
    dtype: readDType(root) ?? readDType(text) ?? null,
    ...sizes,
    hiddenActivation: readActivation(text, family),
    rmsNormEps: text.number('rms_norm_eps', { min: 0, above: true, max: 1 }) ?? 1e-6,
    attentionBias: text.boolean('attention_bias') ?? false,
    mlpBias: family.modelType === 'llama' ? (text.boolean('mlp_bias') ?? false) : false,
    attentionDropout: text.number('attention_dropout', { min: 0, max: 1 }) ?? 0,
    ...readAttention(text, family, sizes.headDim, layerTypes, notes),
    layerTypes,
    rope: readRopes(text, family, sizes, layerTypes, notes),
    tieWordEmbeddings: text.boolean('tie_word_embeddings') ?? root.boolean('tie_word_embeddings') ?? family.tied,
    initializerRange: text.number('initializer_range', { min: 0, max: 100 }) ?? 0.02,
    ...readTokens(root, text, family),
    quantizationConfig: quantization === undefined ? null : readQuantization(quantization),
    notes,
    raw: root.object,
  }
}

function unsupportedModel(root: Fields, modelType: string): OctetError {
  return new OctetError('UNSUPPORTED_MODEL', {
    op: root.op,
    argument: `${root.file}: model_type`,
    expected: [...FAMILIES.keys()].join(' | '),
    received: quoteName(modelType),
    hint: 'Octet runs Gemma and Llama checkpoints',
  })
}

type Sizes = Pick<ModelConfig, 'vocabSize' | 'hiddenSize' | 'intermediateSize' | 'numHiddenLayers' | 'numAttentionHeads' | 'numKeyValueHeads' | 'headDim' | 'maxPositionEmbeddings'>

function readSizes(text: Fields, { defaults }: Family): Sizes {
  const hiddenSize = text.integer('hidden_size', SIZES.width) ?? defaults.hiddenSize
  const numAttentionHeads = text.integer('num_attention_heads', SIZES.heads) ?? defaults.numAttentionHeads
  // Null means one KV head a query head; absent means the family's default.
  const kvDefault = text.isNull('num_key_value_heads') ? numAttentionHeads : (defaults.numKeyValueHeads ?? numAttentionHeads)
  const numKeyValueHeads = text.integer('num_key_value_heads', SIZES.heads) ?? kvDefault
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    text.fail('num_key_value_heads', `a divisor of num_attention_heads ${numAttentionHeads}`, String(numKeyValueHeads))
  }
  const headDim = text.integer('head_dim', SIZES.headDim) ?? (text.isNull('head_dim') ? undefined : defaults.headDim) ?? hiddenSize / numAttentionHeads
  if (!Number.isSafeInteger(headDim)) text.fail('hidden_size', `a multiple of num_attention_heads ${numAttentionHeads} where head_dim is not given`, String(hiddenSize))
  if (headDim % 2 !== 0) text.fail('head_dim', 'an even number, which rotary embedding needs', String(headDim))
  return {
    vocabSize: text.integer('vocab_size', SIZES.vocab) ?? defaults.vocabSize,
    hiddenSize,
    intermediateSize: text.integer('intermediate_size', SIZES.width) ?? defaults.intermediateSize,
    numHiddenLayers: text.integer('num_hidden_layers', SIZES.layers) ?? defaults.numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings: text.integer('max_position_embeddings', SIZES.length) ?? defaults.maxPositionEmbeddings,
  }
}

function readDType(fields: Fields): FloatDType | null | undefined {
  const key = fields.value('dtype') === undefined ? 'torch_dtype' : 'dtype'
  return fields.value(key) === 'auto' ? null : fields.choice(key, DTYPES)
}

/**
 * Gemma 1 has `hidden_act`, where "gelu" has always meant the tanh form, and in some version 4 files `hidden_activation`
 * beside it; Gemma 2 and 3 have `hidden_activation`.
 */
function readActivation(text: Fields, { modelType }: Family): HiddenActivation {
  if (modelType === 'llama') return text.choice('hidden_act', ACTIVATIONS) ?? 'silu'
  if (modelType !== 'gemma') return text.choice('hidden_activation', ACTIVATIONS) ?? 'gelu_pytorch_tanh'
  if (text.value('hidden_act') === 'gelu') return 'gelu_pytorch_tanh'
  return text.choice('hidden_act', ACTIVATIONS) ?? text.choice('hidden_activation', ACTIVATIONS) ?? 'gelu_pytorch_tanh'
}

type Attention = Pick<ModelConfig, 'queryPreAttnScalar' | 'attnLogitSoftcapping' | 'finalLogitSoftcapping' | 'slidingWindow'>

function readAttention(text: Fields, { modelType, defaults }: Family, headDim: number, layerTypes: readonly LayerType[], notes: string[]): Attention {
  if (text.value('use_bidirectional_attention') === true) text.fail('use_bidirectional_attention', 'false: Octet runs causal decoders', 'true')
  const hasOwnScale = modelType === 'gemma2' || modelType === 'gemma3_text'
  const cap = (key: string, ofGemma2: number): number | null => {
    if (!hasOwnScale || text.isNull(key)) return null
    return text.number(key, { min: 0, above: true }) ?? (modelType === 'gemma2' ? ofGemma2 : null)
  }
  const attentionCap = cap('attn_logit_softcapping', 50)
  if (modelType === 'gemma3_text' && attentionCap !== null) notes.push('attn_logit_softcapping is ignored, as Gemma 3 in transformers ignores it')
  const slides = layerTypes.includes('sliding_attention')
  if (slides && text.isNull('sliding_window')) text.fail('sliding_window', 'a whole number, since layers slide', 'null')
  return {
    queryPreAttnScalar: hasOwnScale ? (text.number('query_pre_attn_scalar', { min: 0, above: true }) ?? 256) : headDim,
    attnLogitSoftcapping: modelType === 'gemma2' ? attentionCap : null,
    finalLogitSoftcapping: cap('final_logit_softcapping', 30),
    slidingWindow: slides ? (text.integer('sliding_window', SIZES.length) ?? defaults.slidingWindow ?? null) : null,
  }
}

function readLayerTypes(text: Fields, { modelType, slidingPattern }: Family, layers: number): readonly LayerType[] {
  const isLayerType = (item: unknown): item is LayerType => LAYER_TYPES.includes(item as string)
  const given = text.list('layer_types', LAYER_TYPES.join(' | '), isLayerType)
  if (given !== undefined) {
    if (given.length !== layers) text.fail('layer_types', `${layers} entries, one a layer`, String(given.length))
    if (slidingPattern === undefined && given.includes('sliding_attention')) text.fail('layer_types', `full_attention, the one kind that ${modelType} has`, 'sliding_attention')
    return given
  }
  if (slidingPattern === undefined) return Array.from({ length: layers }, () => 'full_attention' as const)
  const range = { min: 1, max: SIZES.layers.max }
  const every = text.integer('sliding_window_pattern', range) ?? text.integer('_sliding_window_pattern', range) ?? slidingPattern
  return Array.from({ length: layers }, (_, i) => ((i + 1) % every === 0 ? 'full_attention' : 'sliding_attention'))
}

function readRopes(text: Fields, { modelType, defaults }: Family, sizes: Sizes, layerTypes: readonly LayerType[], notes: string[]): { full: RopeConfig; sliding?: RopeConfig } {
  const current = text.child('rope_parameters')
  const former = text.child('rope_scaling')
  if (current !== undefined && former !== undefined) notes.push('rope_scaling is ignored beside rope_parameters')
  const settings = current ?? former
  const global = { ...sizes, theta: defaults.ropeTheta }
  if (modelType !== 'gemma3_text') return { full: readRope(settings, text, 'rope_theta', global) }
  // Version 5 keeps one set for each kind of layer; in version 4 rope_scaling belongs to the full ones alone.
  const byLayer = settings?.value('full_attention') !== undefined || settings?.value('sliding_attention') !== undefined
  const full = readRope(byLayer ? settings!.child('full_attention') : settings, text, 'rope_theta', global)
  if (!layerTypes.includes('sliding_attention')) return { full }
  const sliding = readRope(byLayer ? settings!.child('sliding_attention') : undefined, text, 'rope_local_base_freq', { ...sizes, theta: 1e4 })
  return { full, sliding }
}

function readTokens(root: Fields, text: Fields, { tokens }: Family): Pick<ModelConfig, 'bosTokenId' | 'eosTokenIds' | 'padTokenId'> {
  const own = <T>(read: (fields: Fields) => T | undefined, fallback: T): T => read(root) ?? read(text) ?? fallback
  const id = (key: string, fallback: number | null): number | null => {
    const fields = root.value(key) !== undefined || root.isNull(key) ? root : text
    const value = fields.tokenId(key)
    return value === undefined ? fallback : value
  }
  return {
    bosTokenId: id('bos_token_id', tokens.bos),
    eosTokenIds: own((fields) => fields.tokenIds('eos_token_id'), [tokens.eos]),
    padTokenId: id('pad_token_id', tokens.pad),
  }
}
