import { OctetError } from '@octet-llm/core'
import type { Device } from '@octet-llm/kernels'
import { InputMoments } from '@octet-llm/transformer'

/**
 * How FP8 codes of weights are chosen. `compensated`: so that their errors cancel in products with calibrated inputs, see
 * {@link InputMoments}; `nearest`: each for itself.
 */
export const ROUNDINGS = ['compensated', 'nearest'] as const
export type Rounding = (typeof ROUNDINGS)[number]

/**
 * Where a calibration collects what compensation needs: the caller's to dispose; undefined for rounding to nearest.
 * @param asked default: compensated where the device can
 * @throws OctetError `NOT_SUPPORTED`
 */
export function momentsFor(asked: Rounding | undefined, device: Device): InputMoments | undefined {
  const rounding = asked ?? (InputMoments.supports(device) ? 'compensated' : 'nearest')
  return rounding === 'compensated' ? new InputMoments(device) : undefined
}

/** @throws OctetError `INVALID_ARGUMENT` for a name that is no rounding */
export function checkRounding(asked: string | undefined, op: string): void {
  if (asked === undefined || (ROUNDINGS as readonly string[]).includes(asked)) return
  throw new OctetError('INVALID_ARGUMENT', { op, argument: 'rounding', expected: ROUNDINGS.join(' or '), received: asked })
}
