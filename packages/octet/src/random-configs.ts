/** `config.json` of published models, as transformers 5 writes it, where it sets what a run costs. */
const llama = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  attention_bias: false,
  mlp_bias: false,
  rms_norm_eps: 1e-5,
  initializer_range: 0.02,
  bos_token_id: 1,
  eos_token_id: 2,
  dtype: 'bfloat16',
} as const

const gemma = {
  architectures: ['GemmaForCausalLM'],
  model_type: 'gemma',
  hidden_act: 'gelu_pytorch_tanh',
  hidden_activation: 'gelu_pytorch_tanh',
  attention_bias: false,
  rms_norm_eps: 1e-6,
  initializer_range: 0.02,
  head_dim: 256,
  vocab_size: 256000,
  max_position_embeddings: 8192,
  rope_parameters: { rope_type: 'default', rope_theta: 10000 },
  tie_word_embeddings: true,
  bos_token_id: 2,
  eos_token_id: 1,
  pad_token_id: 0,
  dtype: 'bfloat16',
} as const

/** Names of {@link RANDOM_MODELS}. */
export type RandomModelName = 'gemma-2b' | 'gemma-7b' | 'llama-2-7b' | 'llama-3-8b' | 'llama-3.2-1b'

/** A config.json; of its fields those that a shape is made of. */
export interface RandomModelConfig {
  readonly hidden_size: number
  readonly intermediate_size: number
  readonly num_hidden_layers: number
  readonly num_attention_heads: number
  readonly num_key_value_heads: number
  readonly head_dim: number
  readonly vocab_size: number
  readonly [field: string]: unknown
}

/** Shapes that need no file: what `--random-weights` takes by name. */
export const RANDOM_MODELS: Readonly<Record<RandomModelName, RandomModelConfig>> = {
  'gemma-2b': { ...gemma, hidden_size: 2048, intermediate_size: 16384, num_hidden_layers: 18, num_attention_heads: 8, num_key_value_heads: 1 },
  'gemma-7b': { ...gemma, hidden_size: 3072, intermediate_size: 24576, num_hidden_layers: 28, num_attention_heads: 16, num_key_value_heads: 16 },
  'llama-2-7b': {
    ...llama, hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 32, head_dim: 128,
    vocab_size: 32000, max_position_embeddings: 4096, tie_word_embeddings: false, rope_parameters: { rope_type: 'default', rope_theta: 10000 },
  },
  'llama-3-8b': {
    ...llama, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 128,
    vocab_size: 128256, max_position_embeddings: 8192, tie_word_embeddings: false, rope_parameters: { rope_type: 'default', rope_theta: 500000 },
  },
  'llama-3.2-1b': {
    ...llama, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64,
    vocab_size: 128256, max_position_embeddings: 131072, tie_word_embeddings: true,
    rope_parameters: { rope_type: 'llama3', rope_theta: 500000, factor: 32, high_freq_factor: 4, low_freq_factor: 1, original_max_position_embeddings: 8192 },
  },
}
