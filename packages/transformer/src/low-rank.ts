import { cast, disposeAll, keep, linear, scale, scope, Tensor, upload, type Device } from '@octet-llm/kernels'
import type { TensorSource } from '@octet-llm/core'

import type { Workspace } from './workspace.js'

/** The factors of a LoRA adapter for one weight: y += scaling * B (A x), A [r, in], B [out, r]. */
export interface LoraFactors {
  readonly a: TensorSource
  readonly b: TensorSource
  readonly scaling: number
}

/**
 * A low-rank update beside a projection, for output rows [begin, end): y += B (A x), the scaling in B. Both factors are in
 * the activations' dtype; x is what the projection gets, before any quantization. y is rounded once more, as peft does.
 */
export class LowRankUpdate {
  readonly #begin: number
  readonly #end: number
  /** [r, in] */
  readonly #a: Tensor
  /** [end - begin, r] */
  readonly #b: Tensor

  private constructor(rows: readonly [begin: number, end: number], a: Tensor, b: Tensor) {
    ;[this.#begin, this.#end] = rows
    this.#a = a
    this.#b = b
  }

  /** @throws what `upload` throws; nothing stays allocated then */
  static async read(rows: readonly [begin: number, end: number], { a, b, scaling }: LoraFactors, device: Device, dtype: 'f32' | 'bf16', signal: AbortSignal | undefined): Promise<LowRankUpdate> {
    const { down, right, up } = scope(() => ({
      down: Tensor.empty(a.shape, { dtype, device }),
      right: Tensor.empty(b.shape, { dtype: 'f32', device }),
      up: Tensor.empty(b.shape, { dtype, device }),
    }))
    for (const t of [down, up]) keep(t)
    try {
      await upload(a, down, { signal })
      await upload(b, right, { signal })
      // Scaled before its one rounding.
      scale({ x: right, factor: scaling, out: right })
      cast({ x: right, out: up })
      return new LowRankUpdate(rows, down, up)
    } catch (error) {
      for (const t of [down, up]) t.dispose()
      throw error
    } finally {
      right.dispose()
    }
  }

  /** Whether it belongs to rows [begin, end). */
  covers(begin: number, end: number): boolean {
    return this.#begin === begin && this.#end === end
  }

  get byteLength(): number {
    return this.#a.byteLength + this.#b.byteLength
  }

  /** @param x [..., in] @param y [..., out], whose columns of these rows gain the update */
  add(x: Tensor, y: Tensor, workspace: Workspace): void {
    const whole = this.#begin === 0 && this.#end === y.shape.at(-1)
    const out = whole ? y : y.columns(this.#begin, this.#end)
    this.addTo(x, out, workspace)
    if (!whole) out.dispose()
  }

  /** @param y [..., end - begin] */
  addTo(x: Tensor, y: Tensor, workspace: Workspace): void {
    const rank = this.#a.shape[0]!
    const inner = workspace.get(`lora.${rank}`, [...x.shape.slice(0, -1), rank], x.dtype)
    linear({ x, weight: this.#a, out: inner })
    linear({ x: inner, weight: this.#b, residual: y, out: y })
  }

  dispose(): void {
    disposeAll([this.#a, this.#b])
  }
}
