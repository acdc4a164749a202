import { Construction, disposeAll, embedding, linear, softcap, Tensor } from '@octet-llm/kernels'

import type { DecoderOptions } from './decoder-options.js'
import type { Fp8Context } from './fp8/context.js'
import { Linear } from './linear.js'
import { weightStream } from './module.js'
import { Weight } from './weight.js'
import type { Workspace } from './workspace.js'

export type VocabularyOptions = Pick<DecoderOptions, 'device' | 'dtype' | 'weightDtype' | 'fp8' | 'embeddingScale' | 'tieWordEmbeddings' | 'finalLogitSoftcapping'> & {
  readonly info: Pick<DecoderOptions['info'], 'vocabSize' | 'hiddenSize'>
}

/** Both ends of a decoder: ids to the first hidden states, the last hidden states to logits. V ids, D hidden. */
export class Vocabulary {
  /** [V, D] */
  readonly embedding: Weight
  /** Undefined: the embedding table is the head. A tied head in FP8 has its own codes. */
  readonly head: Linear | undefined
  readonly #options: VocabularyOptions

  /** @throws OctetError `OUT_OF_MEMORY` */
  constructor(options: VocabularyOptions) {
    using construction = new Construction()
    const { device, dtype, info, tieWordEmbeddings } = options
    this.#options = options
    const weightDtype = options.weightDtype ?? dtype
    this.embedding = new Weight({ device, dtype: weightDtype, shape: [info.vocabSize, info.hiddenSize] })
    const fp8 = options.fp8?.lmHead === true ? options.fp8 : undefined
    if (!tieWordEmbeddings || fp8 !== undefined) {
      this.head = new Linear({ device, dtype, weightDtype, inFeatures: info.hiddenSize, outFeatures: info.vocabSize, bias: false, initialize: false, fp8 })
    }
    construction.complete()
  }

  /** Random weights, a function of the seed alone. */
  initialize(seed: number, std: number): void {
    this.embedding.randomize(seed, std, [weightStream(0, 0)])
    if (!this.#options.tieWordEmbeddings) this.head!.weight.randomize(seed, std, [weightStream(0, 1)])
  }

  /** Ends a load: a tied head in FP8 takes its codes from the embedding. */
  finishLoading(): void {
    if (this.#options.tieWordEmbeddings && this.head !== undefined) this.head.weight.quantizeFrom(this.embedding.tensor)
  }

  /** @param ids i32 [T] @param out [T, D] @returns out */
  embed(ids: Tensor, out: Tensor): Tensor {
    return embedding({ ids, table: this.embedding.tensor, scale: this.#options.embeddingScale ?? 1, out })
  }

  /** Logits of hidden states that are normed. @param x [N, D] @returns f32 [N, V], the caller's */
  project(x: Tensor, workspace: Workspace, fp8: Fp8Context | undefined): Tensor {
    const { info, device, finalLogitSoftcapping: cap } = this.#options
    const out = Tensor.empty([x.shape[0]!, info.vocabSize], { dtype: 'f32', device })
    try {
      if (this.head === undefined) linear({ x, weight: this.embedding.tensor, out })
      // As in TransformerEngine's models the head is no part of an autocast; it is in FP8 where its weight is.
      else this.head.run(x, { out, workspace, fp8: this.head.weight.rule === undefined ? undefined : fp8 })
      return cap === undefined ? out : softcap({ x: out, cap, out })
    } catch (error) {
      out.dispose()
      throw error
    }
  }

  dispose(): void {
    disposeAll([this.embedding, this.head])
  }
}
