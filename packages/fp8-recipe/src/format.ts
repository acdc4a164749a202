import type { Fp8DType } from '@octet-llm/core'

/**
 * Which 8-bit type each pass uses. `HYBRID` is e4m3 forward and e5m2 backward, since gradients need range more than
 * precision. Pure `E5M2` is named so that a refusal can name it; every recipe rejects it.
 */
export const Format = { E4M3: 'E4M3', E5M2: 'E5M2', HYBRID: 'HYBRID' } as const
export type Format = (typeof Format)[keyof typeof Format]

export type FormatPass = 'forward' | 'backward'

/** Largest finite value: 448 for e4m3 (S.1111.110), 57344 for e5m2 (S.11110.11). */
export const FP8_MAX: Readonly<Record<Fp8DType, number>> = { e4m3: 448, e5m2: 57344 }

/** The 8-bit type of a pass. */
export function formatDType(format: Format, pass: FormatPass): Fp8DType {
  return format === 'E5M2' || (format === 'HYBRID' && pass === 'backward') ? 'e5m2' : 'e4m3'
}

/** The largest value of the type that a pass uses. */
export function formatMax(format: Format, pass: FormatPass): number {
  return FP8_MAX[formatDType(format, pass)]
}
