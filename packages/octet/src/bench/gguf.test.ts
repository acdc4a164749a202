import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { bf16ToF32, f16ToF32 } from '@octet-llm/core'
import { writeRandomGguf } from './gguf.js'
import { Q8_BLOCK_BYTES, Q8_VALUES, randomBf16Block, randomQ8Block, repeatBytes } from './random-bytes.js'
import { SHAPES, tensorsOf } from './shapes.js'

it('writes random weights of the stated spread', () => {
  const block = randomBf16Block(1)
  const values = Array.from(new Uint16Array(block.buffer), bf16ToF32)
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length)
  // Standard errors at 2^20 values: 2e-5 and 1.4e-5; five of them.
  expect(Math.abs(mean)).toBeLessThan(1e-4)
  expect(Math.abs(deviation - 0.02)).toBeLessThan(1e-4)
  expect([...repeatBytes(block.subarray(0, 10), 25)].map((piece) => piece.byteLength)).toEqual([10, 10, 5])
})

it('writes Q8_0 blocks of the same spread', () => {
  const bytes = randomQ8Block(1)
  const view = new DataView(bytes.buffer)
  let sum = 0
  let squares = 0
  for (let at = 0; at < bytes.byteLength; at += Q8_BLOCK_BYTES) {
    const scale = f16ToF32(view.getUint16(at, true))
    for (let i = 0; i < Q8_VALUES; i++) {
      const value = scale * view.getInt8(at + 2 + i)
      sum += value
      squares += value ** 2
    }
  }
  const count = (bytes.byteLength / Q8_BLOCK_BYTES) * Q8_VALUES
  expect(Math.abs(sum / count)).toBeLessThan(1e-4)
  // float16 knows the scale to 5e-4 of itself; codes of -127 … 127 spread by 127.5 / sqrt(3).
  expect(Math.abs(Math.sqrt(squares / count) - 0.02)).toBeLessThan(2e-4)
})

it.each([['bf16', 2], ['q8_0', Q8_BLOCK_BYTES / Q8_VALUES]] as const)('writes a GGUF whose header counts what follows: %s', async (type, size) => {
  const dir = await mkdtemp(join(tmpdir(), 'octet-gguf-'))
  try {
    const path = join(dir, 'tiny.gguf')
    await writeRandomGguf(path, SHAPES.tiny, type)
    const bytes = await readFile(path)
    expect(bytes.toString('latin1', 0, 4)).toBe('GGUF')
    expect(bytes.readUInt32LE(4)).toBe(3)
    expect(Number(bytes.readBigUInt64LE(8))).toBe(tensorsOf(SHAPES.tiny).length)
    const data = tensorsOf(SHAPES.tiny).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1) * (shape.length === 1 ? 4 : size), 0)
    const head = bytes.byteLength - data
    expect(head).toBeGreaterThan(0)
    expect(head).toBeLessThan(40_000)
    expect(bytes.byteLength % 32).toBe(0)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})
