/** A Llama-shaped model for benchmarks: the fields of a `config.json` that set its cost. */
export interface BenchShape {
  readonly name: string
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numLayers: number
  readonly numHeads: number
  readonly numKvHeads: number
  readonly headDim: number
  readonly vocabSize: number
  readonly tieWordEmbeddings: boolean
}

export const SHAPES = {
  'llama-3.2-1b': {
    name: 'llama-3.2-1b', hiddenSize: 2048, intermediateSize: 8192, numLayers: 16, numHeads: 32, numKvHeads: 8, headDim: 64,
    vocabSize: 128256, tieWordEmbeddings: true,
  },
  // Small enough for a test of the command itself.
  tiny: {
    name: 'tiny', hiddenSize: 64, intermediateSize: 128, numLayers: 2, numHeads: 4, numKvHeads: 2, headDim: 16,
    vocabSize: 512, tieWordEmbeddings: true,
  },
} as const satisfies Record<string, BenchShape>

export type ShapeName = keyof typeof SHAPES

/** The `config.json` of a shape, as transformers 5 writes it. */
export function configOf(shape: BenchShape): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.intermediateSize,
    num_hidden_layers: shape.numLayers,
    num_attention_heads: shape.numHeads,
    num_key_value_heads: shape.numKvHeads,
    head_dim: shape.headDim,
    vocab_size: shape.vocabSize,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    hidden_act: 'silu',
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: shape.tieWordEmbeddings,
    bos_token_id: 1,
    eos_token_id: 2,
    dtype: 'bfloat16',
    rope_parameters: { rope_type: 'default', rope_theta: 500000 },
  }
}

/** Names and shapes of the checkpoint's tensors, [rows, columns] or [length], in layer order. */
export function tensorsOf(shape: BenchShape): { name: string; shape: number[] }[] {
  const { hiddenSize: d, intermediateSize: i, headDim, numHeads, numKvHeads } = shape
  const tensors = [{ name: 'model.embed_tokens.weight', shape: [shape.vocabSize, d] }]
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const at = `model.layers.${layer}.`
    tensors.push(
      { name: `${at}input_layernorm.weight`, shape: [d] },
      { name: `${at}self_attn.q_proj.weight`, shape: [numHeads * headDim, d] },
      { name: `${at}self_attn.k_proj.weight`, shape: [numKvHeads * headDim, d] },
      { name: `${at}self_attn.v_proj.weight`, shape: [numKvHeads * headDim, d] },
      { name: `${at}self_attn.o_proj.weight`, shape: [d, numHeads * headDim] },
      { name: `${at}post_attention_layernorm.weight`, shape: [d] },
      { name: `${at}mlp.gate_proj.weight`, shape: [i, d] },
      { name: `${at}mlp.up_proj.weight`, shape: [i, d] },
      { name: `${at}mlp.down_proj.weight`, shape: [d, i] },
    )
  }
  tensors.push({ name: 'model.norm.weight', shape: [d] })
  if (!shape.tieWordEmbeddings) tensors.push({ name: 'lm_head.weight', shape: [shape.vocabSize, d] })
  return tensors
}
