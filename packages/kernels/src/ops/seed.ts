import type { Call } from './call.js'

/** The two 32-bit words of a Philox key, low word first. */
export function seedWords(call: Call, seed: number): readonly [low: number, high: number] {
  call.whole('seed', seed)
  return [seed % 4294967296, Math.floor(seed / 4294967296)]
}
