/** The activation functions in float64, each with the bound of a kernel's error. */
import type { ActivationKind } from '../ops/activation.js'
import { U } from './host.js'

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z))

/** erfc in float64: Taylor series below 3, continued fraction above (Abramowitz and Stegun 7.1.5, 7.1.14). */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x)
  if (x < 3) {
    let term = x
    let sum = x
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum) && n < 200; n++) {
      term *= (-x * x) / n
      sum += term / (2 * n + 1)
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum
  }
  let fraction = 0
  for (let n = 60; n > 0; n--) fraction = n / 2 / (x + fraction)
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction)
}

export interface Bounded {
  readonly value: number
  readonly error: number
}

/**
 * x * sigmoid(z) where z = z(x) carries `zError` units: sigmoid's condition number is z (1 - sigmoid(z)). The exponential is
 * within an ulp or two (4 units), 1 + e^-z and the product within half an ulp (a unit each), the reciprocal within an ulp where it
 * is the hardware's (2 units): 8. Where e^-z overflows float32 (z < -88), or passes 2^126 so that its reciprocal is flushed
 * (z < -87.3), the kernel gives 0 instead of |x| e^z < |x| 2^-125.
 */
function gate(x: number, z: number, zError: number): Bounded {
  if (x === -Infinity) return { value: 0, error: 0 }
  const s = sigmoid(z)
  const value = x * s
  return { value, error: Math.abs(value) * (8 + zError * Math.abs(z) * (1 - s)) * U + (z < -80 ? Math.min(Math.abs(x), 3e38) * 2 ** -120 : 2 ** -140) }
}

/** The definitions, each with the bound of the kernel's error. */
export function activated(kind: ActivationKind, x: number): Bounded {
  if (Number.isNaN(x)) return { value: NaN, error: 0 }
  switch (kind) {
    case 'relu':
      return { value: Math.max(0, x), error: 0 }
    case 'srelu': // overflows and underflows as float32
      return { value: Math.fround(Math.max(0, x) ** 2), error: 0 }
    case 'sigmoid': {
      const value = sigmoid(x)
      return { value, error: 8 * value * U + 2 ** -120 }
    }
    case 'silu':
      return gate(x, x, 0)
    case 'qgelu': // the constant and the product
      return gate(x, 1.702 * x, 2)
    case 'gelu': // 0.5 x (1 + tanh(y)) = x sigmoid(2 y); both constants, x^2, fma and the product
      return x === Infinity ? { value: x, error: 0 } : gate(x, 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3), 5)
    case 'geluErf': {
      // 1 + erf cancels for x < 0: erf's 4 ulp and the addition weigh on |x| / 2, the argument's unit on the slope
      if (x === -Infinity) return { value: 0, error: 0 }
      const value = 0.5 * x * erfc(-x / Math.SQRT2)
      const slope = Math.abs(x) * Math.exp((-x * x) / 2)
      const error = (Math.min(Math.abs(x), 3e38) * 4 + 2 * Math.abs(x) * slope + 4 * Math.abs(value)) * U + 2 ** -147
      return { value, error: Number.isFinite(error) ? error : 0 }
    }
  }
}

/** Multiples of the inputs: around zero, into saturation, past it. */
export const SPREADS = [1, 12, 100]
