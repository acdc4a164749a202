import { OctetError } from '@octet-llm/core'

import type { Linear } from '../linear.js'
import type { Calibration } from './calibration.js'
import { notCalibrated, type Fp8Inference } from './inference.js'

/** A projection, its name in a calibration, and the checkpoint names of its weights, one a segment. */
export interface NamedLinear {
  readonly name: string
  readonly linear: Linear
  readonly slots: readonly string[]
}

/** What FP8 adds to the loading of a decoder. */
export class DecoderFp8 {
  readonly #fp8: Fp8Inference
  readonly #linears: readonly NamedLinear[]
  readonly #inputScales = new Map<Linear, number>()

  constructor(fp8: Fp8Inference, linears: readonly NamedLinear[]) {
    this.#fp8 = fp8
    this.#linears = linears
  }

  /**
   * Follows an FP8 checkpoint: what it holds in FP8 stays so, byte for byte, and what it left out stays out.
   * @param stored checkpoint names of the weights that it holds in FP8
   */
  layOut(stored: ReadonlySet<string>): void {
    for (const { name, linear, slots } of this.#linears) linear.layOut(slots.some((slot) => stored.has(slot)) || (name === 'lm_head' && this.#fp8.lmHead) ? this.#fp8 : undefined)
  }

  /** A projection whose segments were calibrated apart takes the widest range. */
  noteInputScale(linear: Linear, scale: number): void {
    this.#inputScales.set(linear, Math.max(scale, this.#inputScales.get(linear) ?? 0))
  }

  /**
   * Settles how activations are quantized, once the weights are there.
   * @throws OctetError `CHECKPOINT_MISMATCH` for a calibration of another model, `RECIPE_NOT_CALIBRATED`
   */
  finish(calibration: Calibration | undefined): void {
    // A calibration of the cache alone says nothing of activations.
    const ofInputs = [...(calibration?.keys() ?? [])].some((name) => name.endsWith('.input_scale'))
    const uncalibrated: string[] = []
    for (const { name, linear } of this.#linears) {
      if (linear.weight.rule === undefined) continue
      const scale = inputScaleOf(calibration, name) ?? this.#inputScales.get(linear)
      linear.setInputScale(this.#fp8.staticInputs ? scale : undefined)
      // The head is not calibrated: where it is in FP8 at all, its input is quantized by token.
      if (scale === undefined && name !== 'lm_head') uncalibrated.push(name)
      if (this.#fp8.recipe === undefined && isBlocked(linear)) linear.setInputRule({ granularity: 'block1x128' })
    }
    if (ofInputs && uncalibrated.length > 0) throw calibrationMismatch(uncalibrated)
    if (this.#fp8.recipe?.kind === 'delayed' && uncalibrated.length > 0) throw notCalibrated(`none of ${uncalibrated.slice(0, 4).join(', ')}`)
  }
}

function inputScaleOf(calibration: Calibration | undefined, name: string): number | undefined {
  return calibration?.get(`${name}.input_scale`)?.[0]
}

function isBlocked(linear: Linear): boolean {
  return linear.weight.runs.some(({ weight }) => 'granularity' in weight && weight.granularity.startsWith('block'))
}

function calibrationMismatch(missing: readonly string[]): OctetError {
  return new OctetError('CHECKPOINT_MISMATCH', {
    op: 'calibration',
    argument: 'calibration',
    expected: 'a scale for every projection of the model',
    received: `none for ${missing.length}: ${missing.slice(0, 4).join(', ')}`,
    hint: 'calibrate this model',
  })
}
