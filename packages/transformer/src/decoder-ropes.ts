import { disposeAll, type Tensor } from '@octet-llm/kernels'

import type { LayerContext } from './context.js'
import type { RotaryPositionEmbedding, TokenRun } from './rotary-position-embedding.js'

/** The rotary embeddings of a decoder's layers, which may share one. Owns them. */
export class DecoderRopes {
  readonly #ofLayers: readonly RotaryPositionEmbedding[]
  readonly #distinct: ReadonlySet<RotaryPositionEmbedding>

  /** @param ofLayers one a layer */
  constructor(ofLayers: readonly RotaryPositionEmbedding[]) {
    this.#ofLayers = ofLayers
    this.#distinct = new Set(ofLayers)
  }

  /** Makes tables for sequences of `length` tokens. */
  reserve(length: number): void {
    for (const rope of this.#distinct) rope.reserve(length)
  }

  /** Whether no angle of a sequence of `length` tokens depends on that length. */
  areFixed(length: number): boolean {
    return [...this.#distinct].every((rope) => length <= rope.fixedLength)
  }

  /** A context for each layer: they differ in their tables only. @param positions i32 [T] of the tokens that `runs` describe */
  contexts(base: LayerContext, positions: Tensor, runs: readonly TokenRun[]): LayerContext[] {
    const byRope = new Map<RotaryPositionEmbedding, LayerContext>()
    for (const rope of this.#distinct) byRope.set(rope, { ...base, rope: rope.forTokens(positions, runs) })
    return this.#ofLayers.map((rope) => byRope.get(rope)!)
  }

  /** Bytes of the tables. */
  get byteLength(): number {
    return [...this.#distinct].reduce((total, rope) => total + rope.byteLength, 0)
  }

  dispose(): void {
    disposeAll([...this.#distinct])
  }
}
