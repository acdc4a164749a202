import type { DType, Fp8DType } from './dtype.js'
import type { Shape } from './shape.js'

/** Bytes of one tensor inside a file: where they lie and what they mean. Nothing is read until asked. */
export interface TensorSource {
  /** Name in the checkpoint, e.g. `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string
  /** Absolute path of the file. */
  readonly path: string
  /** First byte within the file. */
  readonly offset: number
  readonly byteLength: number
  readonly dtype: DType
  readonly shape: Shape
  /**
   * Element strides, outermost first, when the bytes are not row-major (PyTorch .bin only);
   * `byteLength` then covers the whole storage span that starts at `offset`.
   */
  readonly strides?: readonly number[]
}

/** How the elements of a quantized tensor share scales: value = data * scaleInv. */
export type ScaleGranularity = 'tensor' | 'row' | 'block1x128' | 'block128x128'

/** A quantized storage form. */
export interface QuantSpec {
  readonly dtype: Fp8DType
  readonly granularity: ScaleGranularity
}

/** A TensorSource with the scales that de-quantize it, as FP8 checkpoints hold them. */
export interface QuantizedSource {
  readonly data: TensorSource
  readonly scaleInv: TensorSource
  readonly granularity: ScaleGranularity
  /** Static activation scale (value = fp8 * inputScale), where the checkpoint was calibrated. */
  readonly inputScale?: TensorSource
}

/**
 * Where a checkpoint's tensors go. `accept` is called once a target slot, in file order, and may start an asynchronous
 * upload; the loader awaits it before it closes the shard, so at most one shard is in flight.
 */
export interface WeightSink {
  accept(slot: WeightSlot, source: TensorSource | QuantizedSource): void | Promise<void>
}

/** One logical weight a model needs, under the checkpoint's name. */
export interface WeightSlot {
  /** Checkpoint name, without architecture prefixes such as `model.language_model.`. */
  readonly name: string
  readonly shape: Shape
  /** A slot that may be absent (a tied lm_head). */
  readonly optional?: boolean
  /** May be stored in FP8 (linear weights); others must be floating. */
  readonly quantizable?: boolean
}

/** `null` where the tokenizer names none. */
export interface SpecialTokens {
  readonly bosTokenId: number | null
  readonly eosTokenId: number | null
  readonly padTokenId: number | null
  readonly unkTokenId: number | null
}

export interface ChatMessage {
  readonly role: string
  readonly content: string
}

export interface ChatTemplateOptions {
  /** Ends the text with the header of the assistant's turn. Default true. */
  readonly addGenerationPrompt?: boolean
  /** Further variables the template may read. */
  readonly variables?: Readonly<Record<string, unknown>>
}

/** Text ↔ token ids. Methods are asynchronous: untrusted tokenizers and templates run in a worker with a deadline. */
export interface Tokenizer {
  readonly special: SpecialTokens
  readonly vocabSize: number
  /** `addSpecialTokens` defaults to true; use false for text that a chat template made. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Promise<number[]>
  /** `skipSpecialTokens` defaults to false. */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): Promise<string>
  /** The bytes each id stands for: stop strings match on them, streaming joins them. */
  tokenBytes(ids: readonly number[]): Promise<Uint8Array[]>
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): Promise<string>
  readonly hasChatTemplate: boolean
  dispose(): Promise<void>
}

/** What FP8 support checks read; the CPU reports `computeCapability: null`. */
export interface DeviceCapability {
  readonly kind: 'cpu' | 'cuda'
  /** [major, minor] of an NVIDIA GPU. */
  readonly computeCapability: readonly [number, number] | null
  /** CUDA runtime the build uses, e.g. '13.0'. */
  readonly cudaVersion: string | null
  /** cublasLtGetVersion(), e.g. 130100; null when the library was not found. */
  readonly cublasLtVersion: number | null
}
