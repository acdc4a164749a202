import { logSoftmax, Tensor } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'
import type { CausalLM } from '@octet-llm/transformer'

/** How far one model's next-token distributions lie from a reference's, over the same tokens. */
export interface Divergence {
  /** exp of the mean negative log-probability of the text's tokens. */
  readonly perplexity: number
  /** Kullback-Leibler divergence KL(reference || this) of a token, in nats. */
  readonly kl: { readonly mean: number; readonly p99: number; readonly max: number }
  /** Share of tokens whose likeliest successor is the reference's. */
  readonly sameTop: number
}

/** Next-token distributions over the tokens of a batch of windows. */
export interface Scored {
  /** [tokens, vocabulary] */
  readonly logProbs: Float32Array
  /** The token after each row; -1 after the last of a window. */
  readonly next: Int32Array
}

/** What others are compared with. */
export interface ReferenceScores extends Scored {
  /** exp of logProbs */
  readonly probs: Float32Array
}

/**
 * One prefill of whole windows through an emptied cache. Prefill attends to what the cache holds, so an FP8 cache has the
 * part in it that it has in decoding.
 */
export async function scoreWindows(model: CausalLM, params: InferenceParams, windows: readonly (readonly number[])[]): Promise<Scored> {
  params.reset()
  params.preStep(new Map(windows.map((window, i) => [i, window.length])))
  const ids = Int32Array.from(windows.flat())
  const tokens = Tensor.from(ids, { shape: [ids.length], dtype: 'i32', device: model.device })
  const logits = model.step(tokens, params, { logits: 'all' })
  const scores = logSoftmax({ x: logits })
  const logProbs = await scores.toFloat32Array()
  for (const t of [tokens, logits, scores]) t.dispose()
  return { logProbs, next: Int32Array.from(windows.flatMap((window) => [...window.slice(1), -1])) }
}

export function asReference(scored: Scored): ReferenceScores {
  return { ...scored, probs: scored.logProbs.map(Math.exp) }
}

/** Sums up batches of scores against the reference's. */
export class DivergenceMeter {
  readonly #kl: number[] = []
  #negativeLog = 0
  #same = 0

  /** @param scored the reference's windows; the reference itself for its own perplexity */
  add(reference: ReferenceScores, scored: Scored): void {
    const { next } = reference
    const vocabulary = reference.logProbs.length / next.length
    for (const [row, token] of next.entries()) {
      if (token < 0) continue
      const [begin, end] = [row * vocabulary, (row + 1) * vocabulary]
      this.#negativeLog -= scored.logProbs[begin + token]!
      this.#compare(reference, scored.logProbs, begin, end)
    }
  }

  /** @throws RangeError before any token was added */
  result(): Divergence {
    const sorted = Float64Array.from(this.#kl).sort()
    const count = sorted.length
    if (count === 0) throw new RangeError('no token was scored')
    return {
      perplexity: Math.exp(this.#negativeLog / count),
      kl: { mean: sorted.reduce((sum, kl) => sum + kl, 0) / count, p99: sorted[Math.ceil(0.99 * count) - 1]!, max: sorted[count - 1]! },
      sameTop: this.#same / count,
    }
  }

  #compare({ logProbs, probs }: ReferenceScores, other: Float32Array, begin: number, end: number): void {
    let kl = 0
    let top = begin
    let otherTop = begin
    for (let i = begin; i < end; i++) {
      // What the reference holds impossible in float32 adds 0, whatever the other says.
      if (probs[i]! > 0) kl += probs[i]! * (logProbs[i]! - other[i]!)
      if (logProbs[i]! > logProbs[top]!) top = i
      if (other[i]! > other[otherTop]!) otherTop = i
    }
    this.#kl.push(kl)
    if (top === otherTop) this.#same += 1
  }
}
