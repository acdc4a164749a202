import { f32ToBf16, philox4x32 } from '@octet-llm/core'

/** Elements of the block that repeats through a random file. */
const BLOCK = 1 << 20

/**
 * 2 MiB of normally distributed bf16 values (mean 0, standard deviation 0.02, Box–Muller over Philox), little-endian.
 * Files for speed tests repeat it: their values only have to be ordinary numbers.
 */
export function randomBf16Block(seed: number): Uint8Array {
  const values = new Uint16Array(BLOCK)
  for (let i = 0; i < BLOCK; i += 4) {
    const words = philox4x32([i, 0, 0, 0], [seed, 0])
    for (let pair = 0; pair < 2; pair++) {
      const u = (words[2 * pair]! + 1) / 4294967297
      const angle = (words[2 * pair + 1]! / 4294967296) * 2 * Math.PI
      const radius = 0.02 * Math.sqrt(-2 * Math.log(u))
      values[i + 2 * pair] = f32ToBf16(radius * Math.cos(angle))
      values[i + 2 * pair + 1] = f32ToBf16(radius * Math.sin(angle))
    }
  }
  return new Uint8Array(values.buffer)
}

/** `byteLength` bytes made of `block` again and again. */
export function* repeatBytes(block: Uint8Array, byteLength: number): Generator<Uint8Array> {
  for (let left = byteLength; left > 0; left -= block.byteLength) yield left < block.byteLength ? block.subarray(0, left) : block
}
