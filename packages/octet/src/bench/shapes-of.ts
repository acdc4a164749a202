import { RANDOM_MODELS, type RandomModelName } from '../random-configs.js'

/** What a model's kernels have to do, by the names of its parts. */
export interface KernelShapes {
  readonly name: string
  readonly hiddenSize: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** [name, N, K] of each product. */
  readonly products: readonly (readonly [name: string, n: number, k: number])[]
}

/** A model small enough for a test. */
const TINY = { hidden_size: 64, intermediate_size: 128, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, vocab_size: 512 }

export const KERNEL_MODELS: readonly (RandomModelName | 'tiny')[] = [...(Object.keys(RANDOM_MODELS) as RandomModelName[]), 'tiny']

export function kernelShapes(name: RandomModelName | 'tiny'): KernelShapes {
  const { hidden_size: d, intermediate_size: f, num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim, vocab_size: v } = name === 'tiny' ? TINY : RANDOM_MODELS[name]
  const products = [
    ['qkv', (heads + 2 * kvHeads) * headDim, d],
    ['o', d, heads * headDim],
    ['gate|up', 2 * f, d],
    ['down', d, f],
    ['lm_head', v, d],
  ] as const
  return { name, hiddenSize: d, heads, kvHeads, headDim, products }
}
