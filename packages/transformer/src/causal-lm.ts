import type { AsyncDisposable } from '@octet-llm/core'
import type { Device, Tensor } from '@octet-llm/kernels'
import type { InferenceParams, KvDType } from '@octet-llm/kv-cache'

import type { Lifetime } from './lifetime.js'
import type { Workspace } from './workspace.js'

import type { Fp8Context } from './fp8/context.js'

/** What generation, serving and training need to know about a model. */
export interface CausalLMInfo {
  /** Hugging Face's model_type: 'gemma', 'gemma2', 'gemma3_text', 'llama'. */
  readonly modelType: string
  /** V */
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numLayers: number
  /** H */
  readonly numHeads: number
  /** Hkv */
  readonly numKvHeads: number
  /** D */
  readonly headDim: number
  /** Longest sequence: of the config, stretched where `dynamic` rotary embedding stretches it. */
  readonly maxPositionEmbeddings: number
  /** Of activations, and of weights where the checkpoint holds none narrower. */
  readonly dtype: 'f32' | 'bf16'
  readonly bosTokenId: number | null
  /** Ids that end a generation, as config.json states them. */
  readonly eosTokenIds: readonly number[]
  readonly padTokenId: number | null
}

export interface InferenceParamsRequest {
  /** Most sequences at once. */
  readonly maxBatchSize: number
  /** Most tokens of one sequence, prompt included. */
  readonly maxSequenceLength: number
  /** Default false: room for maxBatchSize full sequences. */
  readonly isPaged?: boolean
  /** Default 64. */
  readonly pageSize?: number
  /** Paged only; default enough for maxBatchSize full sequences. */
  readonly totalNumPages?: number
  /** Default: the model's dtype. `fp8` is e4m3, with the model's calibrated scale of each head, else 1. */
  readonly kvDtype?: KvDType | 'fp8'
}

export interface StepOptions {
  /** `last` (default): each row's last token, [B, V]. `all`: every token, [T, V]. `none`: no logits, null. */
  readonly logits?: 'last' | 'all' | 'none'
  /** Buffers for intermediate values. Default: the model's own. A step that is captured brings one that no other step uses. */
  readonly workspace?: Workspace
  /** See {@link ForwardInput.fp8}. */
  readonly fp8?: Fp8Context | undefined
}

export interface ForwardInput {
  /** [B][S] token ids (rows of equal length), or i32 [B, S] on the model's device. */
  readonly inputIds: readonly (readonly number[])[] | readonly Int32Array[] | Tensor
  /** [B][S], 1 for tokens and 0 for pads, anywhere in a row. Default: all tokens. */
  readonly attentionMask?: readonly ArrayLike<number>[]
  /** From autocast. Default: FP8 exactly where the weights are in FP8. */
  readonly fp8?: Fp8Context | undefined
}

export interface ForwardOutput {
  /** f32 [B, S, V] */
  readonly logits: Tensor
  /**
   * numLayers + 1 tensors [B, S, hiddenSize] in the model's dtype: the scaled embedding, the output of each layer but
   * the last, and the output of the final norm.
   */
  readonly hiddenStates: readonly Tensor[]
}

/** Bytes on the device, by what holds them. */
export interface ModelMemory {
  readonly weightsBytes: number
  /** RoPE tables. */
  readonly tablesBytes: number
  /** Activations kept between steps. */
  readonly workspaceBytes: number
}

/**
 * A decoder that predicts the next token: all that generation, the engine and training ask of a model. `step` and
 * `forward` enqueue work and return at once; the caller owns, and disposes, the tensors they return.
 */
export interface CausalLM extends AsyncDisposable {
  readonly info: CausalLMInfo
  readonly device: Device
  /** Ended by dispose(), which waits for the work inside it. Generation runs inside it; a model without one is not disposed while it is used. */
  readonly lifetime?: Lifetime
  /** A KV cache that fits this model. @throws OctetError `INVALID_ARGUMENT`, `OUT_OF_MEMORY` */
  createInferenceParams(request: InferenceParamsRequest): InferenceParams
  /**
   * Runs the tokens of one step through the model and its cache.
   * @param tokens i32 [T], packed without pads in the row order of `params` after its preStep
   * @returns f32 logits, see {@link StepOptions}; the row of a sequence without new tokens has no meaning
   * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `DISPOSED`
   */
  step(tokens: Tensor, params: InferenceParams, options: StepOptions & { readonly logits: 'none' }): null
  step(tokens: Tensor, params: InferenceParams, options?: StepOptions & { readonly logits?: 'last' | 'all' }): Tensor
  step(tokens: Tensor, params: InferenceParams, options?: StepOptions): Tensor | null
  /**
   * Full forward without a cache. Positions count tokens only, as Hugging Face derives them from the mask; rows of pads
   * are zero.
   * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`
   */
  forward(input: ForwardInput & { readonly hiddenStates: true }): ForwardOutput
  forward(input: ForwardInput & { readonly hiddenStates?: false }): Tensor
  memory(): ModelMemory
  /**
   * Readies the model for captured steps over sequences of up to `length` tokens; false where such a step needs the host.
   * A model without it has no captured steps.
   */
  prepareCapture?(length: number): boolean
}
