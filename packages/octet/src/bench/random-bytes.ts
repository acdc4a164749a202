import { f32ToBf16, f32ToF16, philox4x32 } from '@octet-llm/core'

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

/** As long as a block of random values, all 1. */
export function bf16Ones(): Uint8Array {
  return new Uint8Array(new Uint16Array(BLOCK).fill(f32ToBf16(1)).buffer)
}

/** Values and bytes of a Q8_0 block. */
export const Q8_VALUES = 32
export const Q8_BLOCK_BYTES = 34

const Q8_BLOCKS = 1 << 15

/**
 * 32768 blocks of GGUF's Q8_0: a float16 scale, then 32 codes. Codes are uniform in -127 … 127, and the scale makes their
 * standard deviation that of {@link randomBf16Block}.
 */
export function randomQ8Block(seed: number): Uint8Array {
  const bytes = new Uint8Array(Q8_BLOCKS * Q8_BLOCK_BYTES)
  const view = new DataView(bytes.buffer)
  const scale = f32ToF16((0.02 * Math.sqrt(3)) / 127)
  for (let block = 0; block < Q8_BLOCKS; block++) {
    const at = block * Q8_BLOCK_BYTES
    view.setUint16(at, scale, true)
    for (let i = 0; i < Q8_VALUES; i += 4) {
      for (const [j, word] of philox4x32([block, i, 1, 0], [seed, 0]).entries()) view.setInt8(at + 2 + i + j, (word % 255) - 127)
    }
  }
  return bytes
}
