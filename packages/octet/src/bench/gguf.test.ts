import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { bf16ToF32 } from '@octet-llm/core'
import { writeRandomGguf } from './gguf.js'
import { randomBf16Block, repeatBytes } from './random-bytes.js'
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

it('writes a GGUF whose header counts what follows', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'octet-gguf-'))
  try {
    const path = join(dir, 'tiny.gguf')
    await writeRandomGguf(path, SHAPES.tiny)
    const bytes = await readFile(path)
    expect(bytes.toString('latin1', 0, 4)).toBe('GGUF')
    expect(bytes.readUInt32LE(4)).toBe(3)
    expect(Number(bytes.readBigUInt64LE(8))).toBe(tensorsOf(SHAPES.tiny).length)
    const data = tensorsOf(SHAPES.tiny).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1) * (shape.length === 1 ? 4 : 2), 0)
    expect(bytes.byteLength).toBeGreaterThan(data)
    expect(bytes.byteLength % 32).toBe(0)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})
