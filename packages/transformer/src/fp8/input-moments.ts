import { OctetError } from '@octet-llm/core'
import { gram, keep, Tensor, type Device } from '@octet-llm/kernels'

/** Channels whose moments are kept together: bounds memory to 4 KiB a channel, and the time that compensation takes. */
const WINDOW = 1024

/**
 * Second moments of what goes into every projection, which `calibrate` sums up where it is given one: they tell which errors of a
 * weight cancel in its products. A weight that is loaded with them is rounded so that they do (`fromPretrained(dir, { fp8,
 * moments })`), in the same scales and the same form as without. On the device of the model, until it is disposed.
 */
export class InputMoments {
  readonly #device: Device
  readonly #sums = new Map<string, Tensor>()

  /** @throws OctetError `NOT_SUPPORTED` for a device that cannot compensate */
  constructor(device: Device) {
    if (!InputMoments.supports(device)) {
      throw new OctetError('NOT_SUPPORTED', { op: 'calibrate', argument: 'moments', expected: 'a CPU device', received: device.name, hint: 'quantize on the CPU: any device runs the checkpoint; or round to nearest' })
    }
    this.#device = device
  }

  /** Whether a device has what compensation needs. */
  static supports(device: Device): boolean {
    return device.supports('gram') && device.supports('compensate')
  }

  /**
   * Adds the rows of an input, enqueued.
   * @param name of the projection, as in a {@link Calibration} before `.input_scale`
   * @param x [..., K]
   */
  add(name: string, x: Tensor): void {
    const channels = x.shape.at(-1)!
    const sums = this.#sums.get(name) ?? keep(Tensor.zeros([channels, Math.min(WINDOW, channels)], { dtype: 'f32', device: this.#device }))
    this.#sums.set(name, sums)
    gram({ x, out: sums })
  }

  /**
   * f32 [K, S]: row k has the moments of channel k with its window of S channels. Owned by this object.
   * @throws OctetError `CHECKPOINT_MISMATCH` for a projection that was not seen, or has another K
   */
  of(name: string, channels: number): Tensor {
    const sums = this.#sums.get(name)
    if (sums?.shape[0] === channels) return sums
    throw new OctetError('CHECKPOINT_MISMATCH', { op: 'load', argument: 'moments', expected: `those of ${channels} inputs of ${name}`, received: sums === undefined ? 'none' : `those of ${sums.shape[0]}`, hint: 'calibrate this model' })
  }

  get byteLength(): number {
    return [...this.#sums.values()].reduce((sum, t) => sum + t.byteLength, 0)
  }

  dispose(): void {
    for (const sums of this.#sums.values()) sums.dispose()
    this.#sums.clear()
  }
}
