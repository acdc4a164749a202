/** Checks of recipe fields. Each throws `INVALID_ARGUMENT` naming recipe and field. */
import { OctetError } from '@octet-llm/core'
import { Format } from './format.js'

export function reject(op: string, argument: string, expected: string, received: unknown, hint?: string): OctetError {
  return new OctetError('INVALID_ARGUMENT', {
    op,
    argument,
    expected,
    received: show(received),
    ...(hint === undefined ? {} : { hint }),
  })
}

export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
}

/** A misspelt field would silently leave a default in place. */
export function checkNames(op: string, options: object, known: readonly string[]): void {
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) throw reject(op, name, `one of ${known.join(', ')}`, name)
  }
}

export function flag(op: string, argument: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback
  if (typeof value !== 'boolean') throw reject(op, argument, 'true or false', value)
  return value
}

export function whole(op: string, argument: string, value: unknown, fallback: number, min: number, max: number): number {
  if (value === undefined) return fallback
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw reject(op, argument, `a whole number in ${min}…${max}`, value)
  }
  return value
}

/** Pure E5M2 is refused: its two mantissa bits lose activations and weights. */
export function format(op: string, value: unknown, fallback: Format): Format {
  if (value === undefined) return fallback
  if (value === Format.E5M2) {
    throw reject(op, 'fp8Format', 'E4M3 or HYBRID', value, 'pure E5M2 is not supported: two mantissa bits are too few for the forward pass')
  }
  if (value !== Format.E4M3 && value !== Format.HYBRID) throw reject(op, 'fp8Format', 'E4M3 or HYBRID', value)
  return value
}

/** Quantization parameters of one operand. */
export interface QuantParams {
  /** Round scales down to powers of two. */
  readonly power2Scale: boolean
  /** Lower bound of the amax a scale is made from. */
  readonly amaxEpsilon: number
}

/** Options of one matrix multiplication. */
export interface GemmParams {
  /** Add partial sums in float32 outside the tensor cores, which keep about 14 bits themselves. */
  readonly useSplitAccumulator: boolean
}

export function quantParams(op: string, argument: string, value: unknown, fallback: QuantParams): QuantParams {
  if (value === undefined) return Object.freeze({ ...fallback })
  if (typeof value !== 'object' || value === null) throw reject(op, argument, '{power2Scale, amaxEpsilon}', value)
  checkNames(`${op}.${argument}`, value, ['power2Scale', 'amaxEpsilon'])
  const { power2Scale, amaxEpsilon } = value as Partial<Record<keyof QuantParams, unknown>>
  const epsilon = amaxEpsilon ?? fallback.amaxEpsilon
  if (typeof epsilon !== 'number' || !Number.isFinite(epsilon) || epsilon < 0) {
    throw reject(op, `${argument}.amaxEpsilon`, 'a finite number from 0', epsilon)
  }
  return Object.freeze({ power2Scale: flag(op, `${argument}.power2Scale`, power2Scale, fallback.power2Scale), amaxEpsilon: epsilon })
}

export function gemmParams(op: string, argument: string, value: unknown, fallback: GemmParams): GemmParams {
  if (value === undefined) return Object.freeze({ ...fallback })
  if (typeof value !== 'object' || value === null) throw reject(op, argument, '{useSplitAccumulator}', value)
  checkNames(`${op}.${argument}`, value, ['useSplitAccumulator'])
  const { useSplitAccumulator } = value as { useSplitAccumulator?: unknown }
  return Object.freeze({ useSplitAccumulator: flag(op, `${argument}.useSplitAccumulator`, useSplitAccumulator, fallback.useSplitAccumulator) })
}
