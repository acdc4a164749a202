import type { ModelConfig } from '@octet-llm/hf-loader/config'
import type { WeightMapEntry } from '@octet-llm/transformer'

/** Checkpoint name within a layer → parameter of the fused layer, segment by segment. */
const LAYER: readonly [string, string][] = [
  ['input_layernorm.weight', 'self_attention.layernorm_qkv.layer_norm_weight'],
  ['self_attn.q_proj.weight', 'self_attention.layernorm_qkv.weight.query'],
  ['self_attn.k_proj.weight', 'self_attention.layernorm_qkv.weight.key'],
  ['self_attn.v_proj.weight', 'self_attention.layernorm_qkv.weight.value'],
  ['self_attn.o_proj.weight', 'self_attention.proj.weight'],
  ['mlp.gate_proj.weight', 'layernorm_mlp.fc1_weight.gate'],
  ['mlp.up_proj.weight', 'layernorm_mlp.fc1_weight.up'],
  ['mlp.down_proj.weight', 'layernorm_mlp.fc2_weight'],
]

const ATTENTION_BIAS: readonly [string, string][] = [
  ['self_attn.q_proj.bias', 'self_attention.layernorm_qkv.bias.query'],
  ['self_attn.k_proj.bias', 'self_attention.layernorm_qkv.bias.key'],
  ['self_attn.v_proj.bias', 'self_attention.layernorm_qkv.bias.value'],
  ['self_attn.o_proj.bias', 'self_attention.proj.bias'],
]

/** Gemma 1 has two norms a layer; the second stands before the MLP, whatever its name says. */
const TWO_NORMS: readonly [string, string][] = [['post_attention_layernorm.weight', 'layernorm_mlp.layer_norm_weight']]

/** Gemma 2 and 3 have four. */
const FOUR_NORMS: readonly [string, string][] = [
  ['post_attention_layernorm.weight', 'post_attention_norm.weight'],
  ['pre_feedforward_layernorm.weight', 'layernorm_mlp.layer_norm_weight'],
  ['post_feedforward_layernorm.weight', 'post_mlp_norm.weight'],
]

const QK_NORMS: readonly [string, string][] = [
  ['self_attn.q_norm.weight', 'self_attention.q_norm.weight'],
  ['self_attn.k_norm.weight', 'self_attention.k_norm.weight'],
]

/** Every tensor of a Gemma checkpoint and where it goes. */
export function gemmaWeightMap(config: ModelConfig, tied: boolean): WeightMapEntry[] {
  const layer = [
    ...LAYER,
    ...(config.attentionBias ? ATTENTION_BIAS : []),
    ...(config.modelType === 'gemma' ? TWO_NORMS : FOUR_NORMS),
    ...(config.modelType === 'gemma3_text' ? QK_NORMS : []),
  ]
  return [
    { name: 'model.embed_tokens.weight', address: 'embed_tokens.weight' },
    ...Array.from({ length: config.numHiddenLayers }, (_, i) =>
      layer.map(([name, address]) => ({ name: `model.layers.${i}.${name}`, address: `layers.${i}.${address}` })),
    ).flat(),
    { name: 'model.norm.weight', address: 'norm.weight' },
    ...(tied ? [] : [{ name: 'lm_head.weight', address: 'lm_head.weight' }]),
  ]
}
