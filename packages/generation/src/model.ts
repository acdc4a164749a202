/** What generation reads of a causal language model, its cache and its tensors. */

export interface Tensor {
  readonly shape: readonly number[]
  toFloat32Array(): Promise<Float32Array>
  toInt32Array(): Promise<Int32Array>
  dispose(): void
}

export interface InferenceParams {
  readonly order: readonly (number | string)[]
  preStep(newTokens: ReadonlyMap<number, number>): void
  reorder(source: ArrayLike<number>): void
  fork(from: number, to: number): void
  reset(): void
  dispose(): void
}

export interface CausalLM {
  readonly info: {
    readonly vocabSize: number
    readonly maxPositionEmbeddings: number
    readonly bosTokenId: number | null
    readonly eosTokenIds: readonly number[]
    readonly padTokenId: number | null
  }
  readonly device: unknown
  createInferenceParams(request: {
    readonly maxBatchSize: number
    readonly maxSequenceLength: number
    readonly isPaged?: boolean
    readonly pageSize?: number
    readonly totalNumPages?: number
    readonly kvDtype?: 'f32' | 'bf16' | 'e4m3'
  }): InferenceParams
  step(tokens: Tensor, params: InferenceParams, options?: { readonly logits?: 'last' | 'all' | 'none' }): Tensor | null
}
