import { sameShape, type Shape } from '@octet-llm/core'
import { disposeAll, keep, Tensor, type Device, type TensorDType } from '@octet-llm/kernels'

/**
 * Named buffers for values between two ops. One queue runs its ops in order, so layers share them: the next layer may
 * overwrite what the last one has read. A buffer lives until its shape changes, so a decode step allocates nothing.
 */
export class Workspace {
  readonly #device: Device
  readonly #buffers = new Map<string, Tensor>()

  constructor(device: Device) {
    this.#device = device
  }

  /** The buffer of that name, with undefined contents after a change of shape or dtype. Owned by the workspace. */
  get(name: string, shape: Shape, dtype: TensorDType): Tensor {
    const held = this.#buffers.get(name)
    // A scope around the caller may have freed it.
    const usable = held !== undefined && !held.disposed && held.dtype === dtype && sameShape(held.shape, shape)
    if (usable) return held
    held?.dispose()
    const made = keep(Tensor.empty(shape, { dtype, device: this.#device }))
    this.#buffers.set(name, made)
    return made
  }

  get byteLength(): number {
    let bytes = 0
    for (const t of this.#buffers.values()) bytes += t.byteLength
    return bytes
  }

  /** Frees every buffer; the workspace stays usable. */
  clear(): void {
    disposeAll(this.#buffers.values())
    this.#buffers.clear()
  }

  dispose(): void {
    this.clear()
  }
}
