import { numel, OctetError } from '@octet-llm/core'
import { gatherRows, gram, keep, scale, scatterRows, scope, Tensor, type Device } from '@octet-llm/kernels'

/** Channels whose moments are kept together: bounds memory to 4 KiB a channel, and the time that compensation takes. */
const WINDOW = 1024
/** See {@link damp}. Divergence on other text, of both fairy checkpoints and of texts from 6 to 25,000 tokens, is alike from 2 to 8. */
const DAMPING = 4

/**
 * Second moments of what goes into every projection, which `calibrate` sums up where it is given one: they tell which errors of a
 * weight cancel in its products. A weight that is loaded with them is rounded so that they do (`fromPretrained(dir, { fp8,
 * moments })`), in the same scales and the same form as without. On the device of the model, until it is disposed.
 */
export class InputMoments {
  readonly #device: Device
  readonly #seen = new Map<string, Moments>()

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
    const seen = this.#seen.get(name) ?? { sums: keep(Tensor.zeros([channels, Math.min(WINDOW, channels)], { dtype: 'f32', device: this.#device })), tokens: 0, damping: 0 }
    this.#seen.set(name, seen)
    damp(seen, 0)
    gram({ x, out: seen.sums })
    seen.tokens += numel(x.shape) / channels
  }

  /**
   * f32 [K, S]: row k has the moments of channel k with its window of S channels, that with itself enlarged by
   * 4 S / T of it after T tokens, so that few of them move few codes. Owned by this object.
   * @throws OctetError `CHECKPOINT_MISMATCH` for a projection that was not seen, or has another K
   */
  of(name: string, channels: number): Tensor {
    const seen = this.#seen.get(name)
    if (seen?.sums.shape[0] === channels) {
      damp(seen, seen.tokens === 0 ? 0 : (DAMPING * seen.sums.shape[1]!) / seen.tokens)
      return seen.sums
    }
    throw new OctetError('CHECKPOINT_MISMATCH', { op: 'load', argument: 'moments', expected: `those of ${channels} inputs of ${name}`, received: seen === undefined ? 'none' : `those of ${seen.sums.shape[0]}`, hint: 'calibrate this model' })
  }

  get byteLength(): number {
    return [...this.#seen.values()].reduce((sum, { sums }) => sum + sums.byteLength, 0)
  }

  dispose(): void {
    for (const { sums } of this.#seen.values()) sums.dispose()
    this.#seen.clear()
  }
}

/** Of one projection. */
interface Moments {
  readonly sums: Tensor
  tokens: number
  /** By which share each channel's moment with itself is enlarged now. */
  damping: number
}

/**
 * Few tokens span few directions: what cancels in those alone is an error in all the others. How two channels vary together
 * is known to about sqrt(1 / T) of T tokens, and a code answers to S channels; so the rest counts as uncorrelated.
 */
function damp(of: Moments, damping: number): void {
  if (damping === of.damping) return
  const { sums } = of
  const [channels, window] = sums.shape as [number, number]
  scope(() => {
    const rows = Tensor.from(Int32Array.from({ length: channels }, (_, k) => k * window + (k % window)), { shape: [channels], dtype: 'i32', device: sums.device })
    const all = sums.view([channels * window, 1])
    const own = gatherRows({ x: all, rows })
    scatterRows({ x: scale({ x: own, factor: (1 + damping) / (1 + of.damping), out: own }), rows, out: all })
  })
  of.damping = damping
}
