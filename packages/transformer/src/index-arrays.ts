import { disposeAll, keep, Tensor, type Device } from '@octet-llm/kernels'

/** Who keeps the arrays of the forwards that run now; forwards are synchronous, so this never outlives a call. */
let collector: ((data: Int32Array, device: Device) => Tensor | undefined) | undefined

/**
 * The small i32 arrays that a forward makes of the shape of its input: where sequences begin, which positions tokens have.
 * They come from the host, which a recording must not ask; collected while a callable warms up, they are there when it is
 * recorded. Results do not depend on who collects.
 */
export class IndexArrays {
  readonly #device: Device
  readonly #tensors = new Map<string, Tensor>()

  constructor(device: Device) {
    this.#device = device
  }

  /** Calls `fn`; the arrays of its forwards stay until {@link dispose}, equal ones made once. */
  collect<T>(fn: () => T): T {
    const outer = collector
    collector = (data, device) => this.#get(data, device)
    try {
      return fn()
    } finally {
      collector = outer
    }
  }

  dispose(): void {
    disposeAll(this.#tensors.values())
    this.#tensors.clear()
  }

  #get(data: Int32Array, device: Device): Tensor | undefined {
    if (device !== this.#device) return undefined
    const key = data.join()
    const held = this.#tensors.get(key)
    if (held !== undefined) return held
    const made = keep(Tensor.from(data, { shape: [data.length], dtype: 'i32', device }))
    this.#tensors.set(key, made)
    return made
  }
}

/**
 * i32 [data.length] on the device.
 * @param temporary takes the tensor where the caller is to dispose of it
 */
export function indexArray(device: Device, data: ArrayLike<number>, temporary: Tensor[]): Tensor {
  const values = Int32Array.from(data)
  const kept = collector?.(values, device)
  if (kept !== undefined) return kept
  const made = Tensor.from(values, { shape: [values.length], dtype: 'i32', device })
  temporary.push(made)
  return made
}
