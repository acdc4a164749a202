import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { ropeFrequencies, ropeTables } from './rope.js'
import { RotaryPositionEmbedding } from './rotary-position-embedding.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const positions = (data: number[]) => Tensor.from(Int32Array.from(data), { shape: [data.length], dtype: 'i32', device })

describe('RotaryPositionEmbedding', () => {
  it('holds as many positions as were needed, and frees the shorter tables', async () => {
    const rope = new RotaryPositionEmbedding({ device, dim: 8, maxPositionEmbeddings: 131072 })
    expect(rope.byteLength).toBe(0)
    const first = rope.forTokens(positions([3]), [{ begin: 3, count: 1 }])
    expect(first.cos.shape).toEqual([512, 4])
    expect(rope.forTokens(positions([511]), [{ begin: 511, count: 1 }]).cos).toBe(first.cos)
    const longer = rope.forTokens(positions([512]), [{ begin: 0, count: 1 }, { begin: 512, count: 1 }])
    expect([longer.cos.shape, first.cos.disposed, rope.byteLength]).toEqual([[1024, 4], true, 2 * 1024 * 4 * 4])
    const want = ropeTables(ropeFrequencies(8, 10000), Int32Array.from({ length: 1024 }, (_, i) => i))
    expect(await longer.cos.toFloat32Array()).toEqual(want.cos)
    expect(await longer.sin.toFloat32Array()).toEqual(want.sin)
    rope.dispose()
    expect([longer.cos.disposed, rope.byteLength]).toEqual([true, 0])
  })

  it('dynamic: follows each sequence’s own length past the trained one, in one row a token', async () => {
    const scaling = { type: 'dynamic', factor: 2 } as const
    const rope = new RotaryPositionEmbedding({ device, dim: 8, scaling, maxPositionEmbeddings: 16 })
    const given = positions([15])
    expect(rope.forTokens(given, [{ begin: 15, count: 1 }]).positions).toBe(given)
    const tables = rope.forTokens(positions([15, 16, 2]), [{ begin: 15, count: 2 }, { begin: 2, count: 1 }])
    expect([...(await tables.positions.toInt32Array())]).toEqual([0, 1, 2])
    const cos = await tables.cos.toFloat32Array()
    const row = (length: number, p: number) => [...ropeTables(ropeFrequencies(8, 10000, scaling, 16, length), [p]).cos]
    expect([...cos.subarray(0, 12)]).toEqual([...row(17, 15), ...row(17, 16), ...row(3, 2)])
    expect(row(17, 15)).not.toEqual(row(16, 15))
    rope.dispose()
    expect(tables.cos.disposed).toBe(true)
  })

  it('longrope: a sequence past the original length turns by its own factors, whatever the others of the step do', async () => {
    const scaling = { type: 'longrope', shortFactor: [1, 1, 1, 1], longFactor: [2, 3, 4, 5], originalMaxPositionEmbeddings: 16, attentionFactor: 1.25 } as const
    const rope = new RotaryPositionEmbedding({ device, dim: 8, scaling, maxPositionEmbeddings: 64 })
    const given = positions([15])
    expect(rope.forTokens(given, [{ begin: 15, count: 1 }]).positions).toBe(given)
    const tables = rope.forTokens(positions([16, 2]), [{ begin: 16, count: 1 }, { begin: 2, count: 1 }])
    const row = (length: number, p: number) => [...ropeTables(ropeFrequencies(8, 10000, scaling, 64, length), [p]).sin]
    expect([...(await tables.sin.toFloat32Array())]).toEqual([...row(17, 16), ...row(3, 2)])
    expect(row(17, 2)).not.toEqual(row(3, 2))
    rope.dispose()
  })
})
