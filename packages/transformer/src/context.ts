import type { Tensor } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'

import type { Fp8Context } from './fp8/context.js'
import type { AttnMaskType, WindowSize } from './mask.js'
import type { RopeTables, RotaryPositionEmbedding } from './rotary-position-embedding.js'
import type { Workspace } from './workspace.js'

/** Everything a layer's result depends on besides its input and weights. There is no hidden state. */
export interface ForwardContext {
  /** The KV cache, after its preStep. Absent: the tokens of the input attend to each other. */
  readonly inferenceParams?: InferenceParams
  /** Absent: no rotation. */
  readonly rotaryPosEmb?: RotaryPositionEmbedding
  /**
   * 1 (true) is masked out, as in TransformerEngine. On the host, [B][S]: the pads, for the `padding` masks; the tokens
   * of a row must be contiguous. A u8 tensor [B or 1, S, S] or [B or 1, 1, S, S]: for the `arbitrary` mask.
   */
  readonly attentionMask?: Tensor | readonly ArrayLike<number | boolean>[]
  /** `thd` without a cache: B + 1 token offsets that cut x into sequences. Default: one sequence. */
  readonly cuSeqlens?: readonly number[]
  /** Overrides the layer's own. */
  readonly selfAttnMaskType?: AttnMaskType
  /** Overrides the layer's own. */
  readonly windowSize?: WindowSize
  /** Buffers for intermediate values; pass one to many calls to save their allocation. */
  readonly workspace?: Workspace
  /** From {@link autocast}. Absent: modules whose weights are in FP8 compute in FP8, others do not. */
  readonly fp8?: Fp8Context | undefined
}

/** Where each sequence lies among the packed tokens. */
export interface TokenRanges {
  /** i32 [B] */
  readonly starts: Tensor
  /** i32 [B] */
  readonly lens: Tensor
  /** u8 [B or 1, S, S], 1 is masked out. */
  readonly mask?: Tensor
}

/** A ForwardContext with its layout settled, as the parts of a layer hand it on: tokens are [T, …]. */
export interface LayerContext {
  readonly workspace: Workspace
  readonly inferenceParams?: InferenceParams
  /** Without a cache. */
  readonly ranges?: TokenRanges
  readonly rope?: RopeTables
  readonly selfAttnMaskType?: AttnMaskType
  readonly windowSize?: WindowSize
  readonly fp8?: Fp8Context | undefined
}

/** Where a part of a layer puts its result, and what it adds to it first. */
export interface RunOptions {
  readonly out?: Tensor
  /** Added before the one rounding of the result; may be `out` itself. */
  readonly residual?: Tensor
  /** Keeps quantized activations between calls. Default: allocated and freed in the call. */
  readonly workspace?: Workspace
  readonly fp8?: Fp8Context | undefined
}
