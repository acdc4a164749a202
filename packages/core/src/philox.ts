/**
 * Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): counter-based, so a draw
 * depends only on (seed, sequence, position) and never on batch slots or call order.
 */
const M0 = 0xd2511f53
const M1 = 0xcd9e8d57
const W0 = 0x9e3779b9
const W1 = 0xbb67ae85

function mulHiLo(a: number, b: number): [hi: number, lo: number] {
  const aHi = a >>> 16
  const aLo = a & 0xffff
  const bHi = b >>> 16
  const bLo = b & 0xffff
  const low = aLo * bLo
  const mid = aHi * bLo + (low >>> 16)
  const mid2 = aLo * bHi + (mid % 65536)
  const hi = aHi * bHi + Math.floor(mid / 65536) + Math.floor(mid2 / 65536)
  return [hi >>> 0, Math.imul(a, b) >>> 0]
}

/** Four 32-bit words for a 128-bit counter and a 64-bit key (all words unsigned 32-bit). */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const [hi0, lo0] = mulHiLo(M0, c0)
    const [hi1, lo1] = mulHiLo(M1, c2)
    c0 = (hi1 ^ c1 ^ k0) >>> 0
    c1 = lo1
    c2 = (hi0 ^ c3 ^ k1) >>> 0
    c3 = lo0
    k0 = (k0 + W0) >>> 0
    k1 = (k1 + W1) >>> 0
  }
  return [c0, c1, c2, c3]
}

/**
 * A uniform number in (0, 1), float32-exact: (top 24 bits of word 0 + 0.5) / 2^24 of the counter
 * (position, lane, sequence, 0) under the key (seed mod 2^32, floor(seed / 2^32)).
 */
export function philoxUniform(seed: number, sequence: number, position: number, lane = 0): number {
  const word = philox4x32([position >>> 0, lane >>> 0, sequence >>> 0, 0], [seed % 4294967296 >>> 0, Math.floor(seed / 4294967296) >>> 0])[0]
  return ((word >>> 8) + 0.5) / 16777216
}
