import { OctetError } from './error.js'

/** Axis lengths, outermost first. `[]` is a scalar. */
export type Shape = readonly number[]

/** Number of elements; 1 for a scalar. */
export function numel(shape: Shape): number {
  let n = 1
  for (const d of shape) n *= d
  return n
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i])
}

/** `[2, 3]` as users read it in a message. */
export function formatShape(shape: Shape): string {
  return `[${shape.join(', ')}]`
}

/** @throws OctetError `INVALID_ARGUMENT` when a length is negative, fractional or the product is past 2^53. */
export function checkShape(shape: Shape, op: string, argument: string): void {
  const ok = shape.every((d) => Number.isSafeInteger(d) && d >= 0) && Number.isSafeInteger(numel(shape))
  if (!ok) {
    throw new OctetError('INVALID_ARGUMENT', {
      op,
      argument,
      expected: 'non-negative whole axis lengths with a product below 2^53',
      received: formatShape(shape),
    })
  }
}
