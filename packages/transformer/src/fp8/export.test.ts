import { openDevice, Tensor } from '@octet-llm/kernels'
import { expect, it } from 'vitest'

import { fromDevice } from './export.js'

it('a large tensor is read in pieces of rows, a small one at once, and every byte once', async () => {
  const device = await openDevice('cpu')
  for (const [shape, pieces] of [[[3, 3 * 2 ** 20], [2, 1]], [[2, 9 * 2 ** 20], [1, 1]], [[4, 1000], [4]], [[7], [7]]] as const) {
    const count = shape.reduce((n: number, d) => n * d, 1)
    const bytes = Uint8Array.from({ length: count }, (_, i) => i % 251)
    const tensor = Tensor.fromBytes(bytes, { shape, dtype: 'u8', device })
    const entry = fromDevice('x', tensor)
    expect([entry.name, entry.dtype, entry.shape]).toEqual(['x', 'u8', [...shape]])
    const found: Uint8Array[] = []
    for await (const piece of entry.data()) found.push(piece)
    expect(found.map((piece) => piece.byteLength)).toEqual(pieces.map((rows) => (rows * count) / shape[0]))
    expect(Buffer.compare(Buffer.concat(found), bytes)).toBe(0)
    tensor.dispose()
  }
  await device.synchronize()
  expect(device.memoryStats().allocatedBytes).toBe(0)
  await device.dispose()
})
