import { mkdir, readFile, writeFile } from 'node:fs/promises'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { caught, failsOnlyWith, fixture, FUZZ_TIMEOUT, fuzzCases, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { parseConfig, parseGenerationConfig, readConfig, readGenerationConfig, type ModelConfig } from './index.js'

const temp = useTempFolder()

/** Without the notes and the raw file. */
function normal(json: unknown): Omit<ModelConfig, 'raw' | 'notes' | 'fileModelType'> {
  const { raw: _raw, notes: _notes, fileModelType: _fileModelType, ...config } = parseConfig(json)
  return config
}

const llama = (more: object = {}): ModelConfig => parseConfig({ model_type: 'llama', ...more })

describe('defaults of transformers', () => {
  it('llama', () => {
    expect(normal({ model_type: 'llama' })).toEqual({
      modelType: 'llama', dtype: null, vocabSize: 32000, hiddenSize: 4096, intermediateSize: 11008, numHiddenLayers: 32, numAttentionHeads: 32,
      numKeyValueHeads: 32, headDim: 128, maxPositionEmbeddings: 2048, hiddenActivation: 'silu', rmsNormEps: 1e-6, attentionBias: false, mlpBias: false,
      attentionDropout: 0, queryPreAttnScalar: 128, attnLogitSoftcapping: null, finalLogitSoftcapping: null, slidingWindow: null,
      layerTypes: Array.from({ length: 32 }, () => 'full_attention'), rope: { full: { type: 'default', theta: 10000 } }, tieWordEmbeddings: false,
      initializerRange: 0.02, bosTokenId: 1, eosTokenIds: [2], padTokenId: null, quantizationConfig: null,
    })
  })

  it('gemma', () => {
    expect(normal({ model_type: 'gemma' })).toMatchObject({
      vocabSize: 256000, hiddenSize: 3072, intermediateSize: 24576, numHiddenLayers: 28, numAttentionHeads: 16, numKeyValueHeads: 16, headDim: 256,
      maxPositionEmbeddings: 8192, hiddenActivation: 'gelu_pytorch_tanh', queryPreAttnScalar: 256, attnLogitSoftcapping: null, finalLogitSoftcapping: null,
      slidingWindow: null, rope: { full: { type: 'default', theta: 10000 } }, tieWordEmbeddings: true, bosTokenId: 2, eosTokenIds: [1], padTokenId: 0,
    })
  })

  it('gemma2', () => {
    const config = normal({ model_type: 'gemma2' })
    expect(config).toMatchObject({
      vocabSize: 256000, hiddenSize: 2304, intermediateSize: 9216, numHiddenLayers: 26, numAttentionHeads: 8, numKeyValueHeads: 4, headDim: 256,
      maxPositionEmbeddings: 8192, queryPreAttnScalar: 256, attnLogitSoftcapping: 50, finalLogitSoftcapping: 30, slidingWindow: 4096, tieWordEmbeddings: true,
    })
    expect(config.rope).toEqual({ full: { type: 'default', theta: 10000 } })
    expect(config.layerTypes.slice(0, 4)).toEqual(['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'])
  })

  it('gemma3_text', () => {
    const config = normal({ model_type: 'gemma3_text' })
    expect(config).toMatchObject({
      vocabSize: 262208, hiddenSize: 2304, intermediateSize: 9216, numHiddenLayers: 26, numAttentionHeads: 8, numKeyValueHeads: 4, headDim: 256,
      maxPositionEmbeddings: 131072, queryPreAttnScalar: 256, attnLogitSoftcapping: null, finalLogitSoftcapping: null, slidingWindow: 4096,
      rope: { full: { type: 'default', theta: 1e6 }, sliding: { type: 'default', theta: 1e4 } },
    })
    expect(config.layerTypes.flatMap((type, i) => (type === 'full_attention' ? [i] : []))).toEqual([5, 11, 17, 23])
  })
})

describe('both ways transformers has written them', () => {
  it('reads rope of version 4 and 5 alike', () => {
    const rope3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }
    const expected = { full: { type: 'llama3', theta: 5e5, factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 } }
    for (const config of [
      llama({ rope_theta: 5e5, rope_scaling: { ...rope3, rope_type: 'llama3' } }),
      llama({ rope_theta: 5e5, rope_scaling: { ...rope3, type: 'llama3' } }),
      llama({ rope_theta: 5e5, rope_scaling: { ...rope3, type: 'linear', rope_type: 'llama3' } }),
      llama({ rope_parameters: { ...rope3, rope_type: 'llama3', rope_theta: 5e5 } }),
      llama({ rope_theta: 1e4, rope_scaling: { type: 'linear', factor: 2 }, rope_parameters: { ...rope3, rope_type: 'llama3', rope_theta: 5e5 } }),
      llama({ rope_theta: 5e5, rope_parameters: { ...rope3, rope_type: 'llama3' } }),
    ]) expect(config.rope).toEqual(expected)
    expect(llama({ rope_scaling: null, rope_theta: 7 }).rope).toEqual({ full: { type: 'default', theta: 7 } })
    expect(llama({ rope_parameters: {} }).rope).toEqual({ full: { type: 'default', theta: 10000 } })
  })

  it('reads every rope type with its defaults', () => {
    const full = (settings: object, more: object = {}): object => llama({ rope_parameters: settings, max_position_embeddings: 4096, ...more }).rope.full
    expect(full({ rope_type: 'linear', factor: 2 })).toEqual({ type: 'linear', theta: 1e4, factor: 2 })
    expect(full({ rope_type: 'dynamic', factor: 4 })).toEqual({ type: 'dynamic', theta: 1e4, factor: 4, maxPositionEmbeddings: 4096 })
    const yarn = { type: 'yarn', theta: 1e4, factor: 4, originalMaxPositionEmbeddings: 1024, betaFast: 32, betaSlow: 1, attentionFactor: 0.1 * Math.log(4) + 1, truncate: true }
    expect(full({ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024 })).toEqual(yarn)
    expect(full({ rope_type: 'yarn', original_max_position_embeddings: 1024 })).toEqual(yarn)
    expect(full({ rope_type: 'yarn', factor: 4 })).toEqual({ ...yarn, originalMaxPositionEmbeddings: 4096 })
    expect(full({ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024, attention_factor: 1.5, beta_fast: 16, beta_slow: 2, truncate: false }))
      .toEqual({ ...yarn, attentionFactor: 1.5, betaFast: 16, betaSlow: 2, truncate: false })
    const ratio = (0.1 * 2 * Math.log(40) + 1) / (0.1 * 0.5 * Math.log(40) + 1)
    expect(full({ rope_type: 'yarn', factor: 40, mscale: 2, mscale_all_dim: 0.5 })).toMatchObject({ attentionFactor: ratio })
    expect(full({ rope_type: 'yarn', factor: 40, mscale: 2 })).toMatchObject({ attentionFactor: 0.1 * Math.log(40) + 1 })
    expect(full({ rope_type: 'yarn', factor: 0.5 })).toMatchObject({ attentionFactor: 1 })
    const [short_factor, long_factor] = [Array.from({ length: 64 }, () => 1), Array.from({ length: 64 }, (_, i) => 1 + i)]
    const long = { type: 'longrope', theta: 1e4, shortFactor: short_factor, longFactor: long_factor, originalMaxPositionEmbeddings: 1024, attentionFactor: Math.sqrt(1 + Math.log(4) / Math.log(1024)) }
    const longrope = { rope_type: 'longrope', short_factor, long_factor }
    expect(full({ ...longrope, original_max_position_embeddings: 1024 })).toEqual(long)
    expect(full(longrope, { original_max_position_embeddings: 1024 })).toEqual(long)
    expect(full({ ...longrope, original_max_position_embeddings: 1024, factor: 16 })).toEqual({ ...long, attentionFactor: Math.sqrt(1 + Math.log(16) / Math.log(1024)) })
    expect(full({ ...longrope, original_max_position_embeddings: 1024, factor: 16, attention_factor: 1.2 })).toEqual({ ...long, attentionFactor: 1.2 })
    expect(full({ ...longrope, original_max_position_embeddings: 8192 })).toEqual({ ...long, originalMaxPositionEmbeddings: 8192, attentionFactor: 1 })
    expect(full({ rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 })).toMatchObject({ originalMaxPositionEmbeddings: 4096 })
  })

  it('reads the two thetas of Gemma 3', () => {
    const gemma3 = (more: object): object => parseConfig({ model_type: 'gemma3_text', ...more }).rope
    const expected = { full: { type: 'linear', theta: 2e6, factor: 8 }, sliding: { type: 'default', theta: 5e3 } }
    expect(gemma3({ rope_theta: 2e6, rope_local_base_freq: 5e3, rope_scaling: { rope_type: 'linear', factor: 8 } })).toEqual(expected)
    expect(gemma3({ rope_parameters: { full_attention: { rope_type: 'linear', factor: 8, rope_theta: 2e6 }, sliding_attention: { rope_type: 'default', rope_theta: 5e3 } } })).toEqual(expected)
    expect(gemma3({ rope_parameters: { full_attention: { rope_type: 'linear', factor: 8 } } })).toEqual({ full: { type: 'linear', theta: 1e6, factor: 8 }, sliding: { type: 'default', theta: 1e4 } })
    expect(gemma3({ sliding_window_pattern: 1 })).toEqual({ full: { type: 'default', theta: 1e6 } })
  })

  it('reads dtype or torch_dtype', () => {
    for (const [name, dtype] of [['bfloat16', 'bf16'], ['float16', 'f16'], ['float32', 'f32'], ['torch.bfloat16', 'bf16'], ['auto', null], [null, null]] as const) {
      expect(llama({ dtype: name }).dtype).toBe(dtype)
      expect(llama({ torch_dtype: name }).dtype).toBe(dtype)
    }
    expect(llama({ dtype: 'float32', torch_dtype: 'float16' }).dtype).toBe('f32')
  })

  it('reads activations under either name', () => {
    const act = (model_type: string, more: object): string => parseConfig({ model_type, ...more }).hiddenActivation
    expect(act('gemma', { hidden_act: 'gelu' })).toBe('gelu_pytorch_tanh')
    expect(act('gemma', { hidden_act: 'gelu', hidden_activation: null })).toBe('gelu_pytorch_tanh')
    expect(act('gemma', { hidden_activation: 'gelu' })).toBe('gelu')
    expect(act('gemma', { hidden_act: 'silu', hidden_activation: 'gelu' })).toBe('silu')
    expect(act('gemma2', { hidden_act: 'silu' })).toBe('gelu_pytorch_tanh')
    expect(act('gemma2', { hidden_activation: 'gelu' })).toBe('gelu')
    expect(act('gemma3_text', { hidden_activation: 'gelu_pytorch_tanh' })).toBe('gelu_pytorch_tanh')
    expect(act('llama', { hidden_act: 'gelu' })).toBe('gelu')
    expect(act('llama', { hidden_act: 'swish' })).toBe('silu')
    expect(act('llama', { hidden_act: 'gelu_new' })).toBe('gelu_pytorch_tanh')
  })

  it('resolves heads and head_dim', () => {
    expect(llama({ hidden_size: 64, num_attention_heads: 4 })).toMatchObject({ numKeyValueHeads: 4, headDim: 16 })
    expect(llama({ hidden_size: 64, num_attention_heads: 4, num_key_value_heads: null, head_dim: null })).toMatchObject({ numKeyValueHeads: 4, headDim: 16 })
    expect(llama({ hidden_size: 60, num_attention_heads: 8, num_key_value_heads: 2, head_dim: 32 })).toMatchObject({ numKeyValueHeads: 2, headDim: 32, queryPreAttnScalar: 32 })
    const gemma = (more: object): ModelConfig => parseConfig({ model_type: 'gemma', hidden_size: 2048, num_attention_heads: 8, ...more })
    expect(gemma({ num_key_value_heads: 1 })).toMatchObject({ numKeyValueHeads: 1, headDim: 256 })
    expect(gemma({ num_key_value_heads: null, head_dim: null })).toMatchObject({ numKeyValueHeads: 8, headDim: 256 })
    expect(parseConfig({ model_type: 'gemma2', hidden_size: 64, num_attention_heads: 4, head_dim: null })).toMatchObject({ numKeyValueHeads: 4, headDim: 16 })
  })

  it('reads layer types, patterns and windows', () => {
    const gemma3 = (more: object): ModelConfig => parseConfig({ model_type: 'gemma3_text', num_hidden_layers: 4, ...more })
    const full = ({ layerTypes }: ModelConfig): number[] => layerTypes.flatMap((type, i) => (type === 'full_attention' ? [i] : []))
    expect(full(gemma3({ sliding_window_pattern: 2 }))).toEqual([1, 3])
    expect(full(gemma3({ _sliding_window_pattern: 3 }))).toEqual([2])
    const explicit = gemma3({ sliding_window_pattern: 2, sliding_window: 7, layer_types: ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'] })
    expect(full(explicit)).toEqual([0, 3])
    expect(explicit.slidingWindow).toBe(7)
    expect(gemma3({ sliding_window_pattern: 1, sliding_window: null }).slidingWindow).toBeNull()
  })

  it('reads soft caps as each family uses them', () => {
    const caps = ({ attnLogitSoftcapping, finalLogitSoftcapping }: ModelConfig): (number | null)[] => [attnLogitSoftcapping, finalLogitSoftcapping]
    const given = { attn_logit_softcapping: 5, final_logit_softcapping: 6 }
    const none = { attn_logit_softcapping: null, final_logit_softcapping: null }
    expect(caps(parseConfig({ model_type: 'gemma2', ...given }))).toEqual([5, 6])
    expect(caps(parseConfig({ model_type: 'gemma2', ...none }))).toEqual([null, null])
    const gemma3 = parseConfig({ model_type: 'gemma3_text', ...given })
    expect(caps(gemma3)).toEqual([null, 6])
    expect(gemma3.notes.join()).toMatch(/attn_logit_softcapping is ignored/)
    expect(caps(llama(given))).toEqual([null, null])
  })

  it('reads the multimodal wrapper of Gemma 3', () => {
    const config = parseConfig({
      model_type: 'gemma3', torch_dtype: 'bfloat16', eos_token_id: [1, 106], image_token_index: 262144, vision_config: { hidden_size: 1 },
      text_config: { model_type: 'gemma3_text', hidden_size: 2560, intermediate_size: 10240, num_hidden_layers: 34, rope_scaling: { factor: 8, rope_type: 'linear' }, sliding_window: 1024 },
    })
    expect(config).toMatchObject({
      modelType: 'gemma3_text', fileModelType: 'gemma3', dtype: 'bf16', hiddenSize: 2560, numHiddenLayers: 34, numAttentionHeads: 8, numKeyValueHeads: 4, headDim: 256, vocabSize: 262208,
      eosTokenIds: [1, 106], slidingWindow: 1024, tieWordEmbeddings: true, rope: { full: { type: 'linear', theta: 1e6, factor: 8 }, sliding: { type: 'default', theta: 1e4 } },
    })
    expect(parseConfig({ model_type: 'gemma3', tie_word_embeddings: false, text_config: {} }).tieWordEmbeddings).toBe(false)
  })

  it('reads token ids', () => {
    expect(llama({ eos_token_id: [128001, 128008], bos_token_id: 128000, pad_token_id: 7 })).toMatchObject({ eosTokenIds: [128001, 128008], bosTokenId: 128000, padTokenId: 7 })
    expect(llama({ eos_token_id: null, bos_token_id: null, pad_token_id: -1 })).toMatchObject({ eosTokenIds: [], bosTokenId: null, padTokenId: null })
    expect(parseConfig({ model_type: 'gemma', pad_token_id: null }).padTokenId).toBeNull()
  })
})

describe('what is refused', () => {
  it.each<[string, object]>([
    ['vocab_size', { vocab_size: 0 }], ['vocab_size', { vocab_size: 2 ** 30 }], ['vocab_size', { vocab_size: '32000' }], ['hidden_size', { hidden_size: -1 }], ['hidden_size', { hidden_size: 1.5 }],
    ['hidden_size', { hidden_size: 1e300 }], ['intermediate_size', { intermediate_size: 0 }], ['num_hidden_layers', { num_hidden_layers: 1e9 }], ['num_hidden_layers', { num_hidden_layers: 0 }],
    ['num_attention_heads', { num_attention_heads: 0 }], ['num_key_value_heads', { num_key_value_heads: 0 }], ['num_key_value_heads', { num_key_value_heads: 5 }],
    ['num_key_value_heads', { num_attention_heads: 4, num_key_value_heads: 8 }], ['hidden_size', { hidden_size: 100, num_attention_heads: 3 }], ['head_dim', { hidden_size: 12, num_attention_heads: 4 }],
    ['head_dim', { head_dim: 31 }], ['head_dim', { head_dim: 1e5 }], ['max_position_embeddings', { max_position_embeddings: 2 ** 40 }], ['rms_norm_eps', { rms_norm_eps: 0 }], ['rms_norm_eps', { rms_norm_eps: '1e-5' }],
    ['attention_bias', { attention_bias: 1 }], ['mlp_bias', { mlp_bias: 'true' }], ['tie_word_embeddings', { tie_word_embeddings: 'no' }], ['hidden_act', { hidden_act: 'mish' }], ['hidden_act', { hidden_act: 'constructor' }],
    ['dtype', { dtype: 'float8_e4m3fn' }], ['torch_dtype', { torch_dtype: 16 }], ['eos_token_id', { eos_token_id: -2 }], ['eos_token_id', { eos_token_id: [1, '2'] }], ['eos_token_id', { eos_token_id: {} }],
    ['bos_token_id', { bos_token_id: 2 ** 31 }], ['pad_token_id', { pad_token_id: 0.5 }], ['layer_types', { layer_types: ['full_attention'] }], ['layer_types', { num_hidden_layers: 1, layer_types: ['sliding_attention'] }],
    ['layer_types', { num_hidden_layers: 1, layer_types: ['chunked_attention'] }], ['layer_types', { layer_types: {} }], ['use_bidirectional_attention', { use_bidirectional_attention: true }],
    ['initializer_range', { initializer_range: -1 }], ['attention_dropout', { attention_dropout: 2 }], ['rope_theta', { rope_theta: 0 }], ['rope_theta', { rope_theta: 1 }], ['rope_theta', { rope_theta: -5 }],
    ['rope_scaling', { rope_scaling: [] }], ['rope_scaling.type', { rope_scaling: { type: 'su' } }], ['rope_scaling.rope_type', { rope_scaling: { rope_type: 'proportional' } }], ['rope_scaling.original_max_position_embeddings', { rope_scaling: { rope_type: 'longrope' } }],
    ['rope_scaling.short_factor', { rope_scaling: { rope_type: 'longrope', original_max_position_embeddings: 64 } }], ['rope_scaling.short_factor', { rope_scaling: { rope_type: 'longrope', original_max_position_embeddings: 64, short_factor: [1] } }],
    ['rope_scaling.long_factor', { head_dim: 2, rope_scaling: { rope_type: 'longrope', original_max_position_embeddings: 64, short_factor: [1], long_factor: [0] } }], ['rope_parameters.rope_type', { rope_parameters: { rope_type: 3 } }],
    ['rope_scaling.factor', { rope_scaling: { type: 'linear' } }], ['rope_scaling.factor', { rope_scaling: { type: 'linear', factor: 0 } }], ['rope_scaling.factor', { rope_scaling: { type: 'dynamic', factor: '2' } }],
    ['rope_scaling.type', { head_dim: 2, rope_scaling: { type: 'dynamic', factor: 2 } }], ['rope_scaling.low_freq_factor', { rope_scaling: { type: 'llama3', factor: 8, high_freq_factor: 4 } }],
    ['rope_scaling.high_freq_factor', { rope_scaling: { type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 } }], ['rope_scaling.beta_fast', { rope_scaling: { type: 'yarn', factor: 8, beta_fast: 0.5 } }],
    ['rope_scaling.original_max_position_embeddings', { rope_scaling: { type: 'yarn', factor: 8, original_max_position_embeddings: 0 } }], ['partial_rotary_factor', { partial_rotary_factor: 0.5 }],
    ['rope_parameters.partial_rotary_factor', { rope_parameters: { partial_rotary_factor: 0.25 } }], ['quantization_config', { quantization_config: 'fp8' }], ['quantization_config.quant_method', { quantization_config: {} }],
  ])('%s of %j', async (field, more) => {
    const error = await octetError(() => llama(more), 'INVALID_CONFIG')
    expect(error.argument).toBe(`config.json: ${field}`)
  })

  it('names fields of a nested config', async () => {
    await octetError(() => parseConfig({ model_type: 'gemma3' }), 'INVALID_CONFIG', /text_config/)
    await octetError(() => parseConfig({ model_type: 'gemma3', text_config: { vocab_size: 0 } }), 'INVALID_CONFIG', /text_config\.vocab_size/)
    await octetError(() => parseConfig({ model_type: 'gemma3_text', sliding_window: null }), 'INVALID_CONFIG', /sliding_window/)
    await octetError(() => parseConfig({ model_type: 'gemma3_text', rope_parameters: { full_attention: 1 } }), 'INVALID_CONFIG', /rope_parameters\.full_attention/)
    await octetError(() => parseConfig({ model_type: 'gemma2', final_logit_softcapping: 0 }), 'INVALID_CONFIG', /final_logit_softcapping/)
    await octetError(() => parseConfig({ model_type: 'gemma2', query_pre_attn_scalar: -1 }), 'INVALID_CONFIG', /query_pre_attn_scalar/)
  })

  it('other models, other files', async () => {
    await octetError(() => parseConfig({ model_type: 'mistral' }), 'UNSUPPORTED_MODEL', /gemma \| gemma2 \| gemma3_text \| gemma3 \| llama.*"mistral"/)
    await octetError(() => parseConfig({ model_type: '__proto__' }), 'UNSUPPORTED_MODEL')
    await octetError(() => parseConfig({ model_type: 'x'.repeat(1e6) }), 'UNSUPPORTED_MODEL', /^.{0,500}$/)
    await octetError(() => parseConfig({}), 'INVALID_CONFIG', /model_type/)
    await octetError(() => parseConfig({ model_type: 7 }), 'INVALID_CONFIG', /model_type/)
    for (const json of [null, [], 'llama', 7, undefined]) await octetError(() => parseConfig(json), 'INVALID_ARGUMENT')
  })

  it('never honours auto_map, and inherits nothing', () => {
    const config = llama({ auto_map: { AutoModelForCausalLM: 'evil.Model' } })
    expect(config.notes.join()).toMatch(/auto_map is ignored/)
    const polluted = JSON.parse('{"model_type":"llama","__proto__":{"vocab_size":5,"num_hidden_layers":0}}') as unknown
    expect(parseConfig(polluted).vocabSize).toBe(32000)
  })
})

describe('quantization_config', () => {
  const weights = { num_bits: 8, type: 'float', strategy: 'channel', symmetric: true, dynamic: false }
  const ct = (more: object, group: object = { weights, input_activations: null }): object => ({ quant_method: 'compressed-tensors', format: 'float-quantized', config_groups: { group_0: group }, ...more })

  it('reads the four FP8 forms', () => {
    const read = (quantization_config: object): unknown => {
      const { raw: _raw, ...rest } = llama({ quantization_config }).quantizationConfig!
      return rest
    }
    expect(read(ct({ ignore: ['lm_head'] }))).toEqual({ method: 'compressed-tensors', staticActivations: false, ignore: ['lm_head'] })
    expect(read(ct({}, { weights, input_activations: { num_bits: 8, type: 'float', strategy: 'tensor', dynamic: false } }))).toMatchObject({ staticActivations: true })
    expect(read(ct({}, { weights, input_activations: { num_bits: 8, type: 'float', strategy: 'token', dynamic: true } }))).toMatchObject({ staticActivations: false })
    expect(read({ quant_method: 'fbgemm_fp8', activation_scale_ub: 1200, modules_to_not_convert: ['lm_head'] })).toEqual({ method: 'fbgemm_fp8', activationScaleUb: 1200, ignore: ['lm_head'] })
    expect(read({ quant_method: 'fp8', activation_scheme: 'dynamic', weight_block_size: [128, 128] })).toEqual({ method: 'fp8', weightBlockSize: [128, 128], staticActivations: false, ignore: [] })
    expect(read({ quant_method: 'fp8', activation_scheme: 'static', weight_block_size: null })).toEqual({ method: 'fp8', weightBlockSize: null, staticActivations: true, ignore: [] })
  })

  it('refuses what is not FP8', async () => {
    for (const quantization_config of [
      { quant_method: 'gptq', bits: 4 }, { quant_method: 'bitsandbytes' }, { quant_method: 'fp8', weight_block_size: [64, 64] }, ct({ format: 'pack-quantized' }),
      ct({}, { weights: { ...weights, num_bits: 4 } }), ct({}, { weights: { ...weights, type: 'int' } }), ct({}, { weights: { ...weights, symmetric: false } }), ct({}, { weights: { ...weights, strategy: 'group' } }),
    ]) await octetError(() => llama({ quantization_config }), 'NOT_SUPPORTED', /quantization_config/)
    for (const quantization_config of [ct({ config_groups: {} }), ct({ config_groups: null }), ct({}, {}), ct({ ignore: 'lm_head' }), { quant_method: 'fp8', activation_scheme: 'x' }, { quant_method: 'fp8', weight_block_size: 128 }, { quant_method: 'fbgemm_fp8', activation_scale_ub: -1 }]) {
      await octetError(() => llama({ quantization_config }), 'INVALID_CONFIG')
    }
  })
})

describe('generation_config.json', () => {
  it('keeps what is set and nothing else', () => {
    expect(parseGenerationConfig({})).toEqual({})
    expect(parseGenerationConfig({ temperature: null, eos_token_id: null, bos_token_id: null, stop_strings: null, transformers_version: '5.17.0', _from_model_config: true })).toEqual({})
    expect(parseGenerationConfig({
      max_length: 20, max_new_tokens: 5, min_length: 1, min_new_tokens: 2, do_sample: true, num_beams: 4, num_return_sequences: 2, early_stopping: 'never', temperature: 0.6, top_k: 0, top_p: 0.9, min_p: 0.1,
      typical_p: 0.95, epsilon_cutoff: 0.01, eta_cutoff: 0.02, repetition_penalty: 1.1, no_repeat_ngram_size: 3, length_penalty: -1, bad_words_ids: [[1], [2, 3]], suppress_tokens: [4], begin_suppress_tokens: [5],
      stop_strings: 'end', bos_token_id: 2, eos_token_id: [1, 106], pad_token_id: 0,
    })).toEqual({
      maxLength: 20, maxNewTokens: 5, minLength: 1, minNewTokens: 2, doSample: true, numBeams: 4, numReturnSequences: 2, earlyStopping: 'never', temperature: 0.6, topK: 0, topP: 0.9, minP: 0.1,
      typicalP: 0.95, epsilonCutoff: 0.01, etaCutoff: 0.02, repetitionPenalty: 1.1, noRepeatNgramSize: 3, lengthPenalty: -1, badWordsIds: [[1], [2, 3]], suppressTokens: [4], beginSuppressTokens: [5],
      stopStrings: ['end'], bosTokenId: 2, eosTokenId: [1, 106], padTokenId: 0,
    })
    expect(parseGenerationConfig({ eos_token_id: 7, early_stopping: true, stop_strings: ['a', 'b'] })).toEqual({ eosTokenId: [7], earlyStopping: true, stopStrings: ['a', 'b'] })
  })

  it.each<[string, unknown]>([
    ['max_length', -1], ['max_new_tokens', 1.5], ['do_sample', 'yes'], ['num_beams', 0], ['num_return_sequences', 0], ['early_stopping', 'always'], ['temperature', -0.1], ['temperature', 'hot'], ['top_k', -1], ['top_p', 1.1],
    ['min_p', -1], ['typical_p', 2], ['repetition_penalty', 0], ['no_repeat_ngram_size', -1], ['length_penalty', []], ['bad_words_ids', [[]]], ['bad_words_ids', [1]], ['suppress_tokens', [-1]], ['stop_strings', [1]], ['eos_token_id', 'x'],
  ])('refuses %s of %j', async (field, value) => {
    const error = await octetError(() => parseGenerationConfig({ [field]: value }), 'INVALID_CONFIG')
    expect(error.argument).toBe(`generation_config.json: ${field}`)
  })

  it('is optional in a folder', async () => {
    expect(await readGenerationConfig(fixture('variants/llama-bin-single'))).toEqual({})
    expect(await readGenerationConfig(fixture('fairy-gemma'))).toEqual({ bosTokenId: 2, eosTokenId: [1], padTokenId: 0 })
    await octetError(() => parseGenerationConfig([]), 'INVALID_ARGUMENT')
  })
})

describe('files', () => {
  it('refuses text that is not a JSON object, too deep or too large', async () => {
    await mkdir(temp.path('bad'), { recursive: true })
    const bad = ['', 'x', '[]', '"a"', '{"a":1,}', '{"model_type":"llama"', '{"a":'.repeat(1e5) + '1' + '}'.repeat(1e5), '['.repeat(1e5), `{"a":${'[]'.padStart(300, '[').padEnd(500, ']')}}`, Buffer.from([0x7b, 0xff, 0x7d]), '{"\\ud800":1}', ' '.repeat(2 ** 22) + '{}']
    for (const text of bad) {
      for (const [name, read] of [['config.json', readConfig], ['generation_config.json', readGenerationConfig]] as const) {
        await writeFile(temp.path('bad', name), text)
        const error = await octetError(read(temp.path('bad')), 'INVALID_JSON')
        expect(error.message.length).toBeLessThan(500)
      }
    }
    await octetError(readConfig(temp.path('absent')), 'FILE_NOT_FOUND', /config\.json/)
    const reason = new Error('enough')
    expect(await caught(readConfig(fixture('fairy-gemma'), { signal: AbortSignal.abort(reason) }))).toBe(reason)
  })

  it('reads every fixture', async () => {
    expect(await readConfig(fixture('fairy-gemma'))).toMatchObject({ modelType: 'gemma', dtype: 'bf16', numKeyValueHeads: 1, headDim: 128, rope: { full: { type: 'default', theta: 1e4 } } })
    expect(await readConfig(fixture('fairy-llama'))).toMatchObject({ modelType: 'llama', rmsNormEps: 1e-5, padTokenId: 5, rope: { full: { type: 'default', theta: 5e5 } } })
    expect(await readConfig(fixture('variants/gemma2'))).toMatchObject({ attnLogitSoftcapping: 5, finalLogitSoftcapping: 10, slidingWindow: 16, queryPreAttnScalar: 32, layerTypes: ['sliding_attention', 'full_attention', 'sliding_attention'] })
    expect(await readConfig(fixture('variants/gemma3'))).toMatchObject({ modelType: 'gemma3_text', rope: { full: { theta: 1e6 }, sliding: { theta: 1e4 } } })
    expect(await readConfig(fixture('variants/llama-bias-tied'))).toMatchObject({ attentionBias: true, mlpBias: true, tieWordEmbeddings: true, headDim: 16 })
    expect(await readConfig(fixture('variants/llama-headdim'))).toMatchObject({ headDim: 32, hiddenSize: 64, numAttentionHeads: 4, dtype: 'bf16' })
    expect(await readConfig(fixture('variants/llama-yarn'))).toMatchObject({ rope: { full: { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 64 } } })
    const [five, four] = [await readConfig(fixture('variants/llama-rope3')), await readConfig(fixture('variants/llama-bin-single'))]
    expect({ ...five, raw: null }).toEqual({ ...four, raw: null })
  })

  it('gives one error or a sound config for any mutation', async () => {
    const sources = ['fairy-gemma', 'variants/gemma3', 'variants/llama-rope3', 'variants/llama-yarn', 'variants/llama-fp8-ct-tensor-static', 'variants/llama-fp8-block128']
    const texts = await Promise.all(sources.map((dir) => readFile(fixture(dir, 'config.json'), 'utf8')))
    await mkdir(temp.path('fuzz'), { recursive: true })
    const odd = fc.oneof(fc.constantFrom<unknown>(null, true, 0, -1, 1, 2, 3, 1e308, 2 ** 53, 0.5, '', 'llama3', 'yarn', 'dynamic', 'longrope', [], {}, [[]], ['full_attention'], { type: 'linear' }), fc.jsonValue({ maxDepth: 2 }))
    const replaced = fc.tuple(fc.nat(), fc.array(fc.tuple(fc.nat(), odd), { minLength: 1, maxLength: 5 })).map(([which, changes]) => {
      const json = JSON.parse(texts[which % texts.length]!) as Record<string, unknown>
      for (const [at, value] of changes) {
        const objects = [json, ...Object.values(json).filter((item): item is Record<string, unknown> => typeof item === 'object' && item !== null && !Array.isArray(item))]
        const target = objects[at % objects.length]!
        const keys = Object.keys(target)
        target[keys[Math.floor(at / objects.length) % Math.max(keys.length, 1)] ?? 'factor'] = structuredClone(value)
      }
      return JSON.stringify(json)
    })
    const garbled = fc.tuple(fc.nat(), fc.nat(), fc.nat({ max: 30 }), fc.string({ maxLength: 4 })).map(([which, at, cut, put]) => {
      const text = texts[which % texts.length]!
      return text.slice(0, at % text.length) + put + text.slice((at % text.length) + cut)
    })
    const codes = ['INVALID_JSON', 'INVALID_CONFIG', 'UNSUPPORTED_MODEL', 'NOT_SUPPORTED'] as const
    await fc.assert(fc.asyncProperty(fc.oneof(replaced, garbled), async (text) => {
      await writeFile(temp.path('fuzz', 'config.json'), text)
      await writeFile(temp.path('fuzz', 'generation_config.json'), text)
      return (await failsOnlyWith(async () => {
        const config = await readConfig(temp.path('fuzz'))
        expect(config.layerTypes.length).toBe(config.numHiddenLayers)
        expect(Number.isInteger(config.numAttentionHeads / config.numKeyValueHeads) && config.headDim % 2 === 0).toBe(true)
        expect(JSON.stringify({ ...config, raw: null })).not.toMatch(/NaN|Infinity/)
        for (const number of [config.vocabSize, config.hiddenSize, config.queryPreAttnScalar, config.rmsNormEps, ...Object.values(config.rope.full).filter((value) => typeof value === 'number')]) expect(Number.isFinite(number) && number > 0).toBe(true)
      }, codes)) && failsOnlyWith(() => readGenerationConfig(temp.path('fuzz')), codes)
    }), { numRuns: fuzzCases(500) })
  }, FUZZ_TIMEOUT)
})
