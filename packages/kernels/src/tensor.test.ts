import { E4M3_TO_F32, OctetError, bf16ToF32, f16ToF32 } from '@octet-llm/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from './device.js'
import type { TensorDType } from './dtype-codes.js'
import { Tensor } from './tensor.js'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
})
afterAll(() => device.dispose())

const values = [0, -0, 1, -1.5, 3.2, 448, 1e-3, -70000]

async function code(promise: Promise<unknown> | (() => unknown)): Promise<string> {
  try {
    await (typeof promise === 'function' ? promise() : promise)
  } catch (error) {
    if (OctetError.is(error)) return error.code
    throw error
  }
  return 'no error'
}

describe('Tensor.from and reads', () => {
  it.each(['f32', 'f64', 'bf16', 'f16', 'e4m3', 'e5m2'] as const)('round-trips values that %s holds', async (dtype) => {
    const exact = [0, 1, -1.5, 0.25, -2, 3, 0.875, 16]
    using t = Tensor.from(exact, { dtype, device })
    expect([...(await t.toFloat32Array())]).toEqual(exact)
    expect((await t.toBytes()).byteLength).toBe(t.byteLength)
  })

  it('rounds to nearest even and saturates FP8', async () => {
    using bf16 = Tensor.from([1 + 2 ** -9 + 2 ** -20, 1 + 2 ** -8, 1 + 3 * 2 ** -8, NaN], { dtype: 'bf16', device })
    expect([...(await bf16.toFloat32Array())]).toEqual([1, 1, 1 + 2 ** -6, NaN])
    using e4m3 = Tensor.from(values, { dtype: 'e4m3', device })
    expect([...(await e4m3.toFloat32Array())]).toEqual([0, -0, 1, -1.5, 3.25, 448, 2 ** -9 * 1, -448].map((v, i) => (i === 6 ? E4M3_TO_F32[1] : v)))
    using f16 = Tensor.from([65504, 1e6, 1 / 3], { dtype: 'f16', device })
    const bits = new Uint16Array((await f16.toBytes()).buffer)
    expect([...bits].map(f16ToF32)).toEqual([...(await f16.toFloat32Array())])
  })

  it('keeps integers and refuses what does not fit', async () => {
    using i32 = Tensor.from([0, -1, 2147483647, -2147483648], { dtype: 'i32', device })
    expect([...(await i32.toInt32Array())]).toEqual([0, -1, 2147483647, -2147483648])
    using i64 = Tensor.from([-1, 2 ** 53 - 1], { dtype: 'i64', device })
    expect(new BigInt64Array((await i64.toBytes()).buffer)).toEqual(BigInt64Array.from([-1n, 2n ** 53n - 1n]))
    using flags = Tensor.from([0, 3, -1], { dtype: 'bool', device })
    expect([...(await flags.toBytes())]).toEqual([0, 1, 1])
    for (const [dtype, bad] of [['i32', 2147483648], ['i32', 0.5], ['u8', -1], ['u8', 256], ['i64', 2 ** 60], ['i32', NaN]] as const) {
      expect(await code(() => Tensor.from([bad], { dtype, device }))).toBe('INVALID_ARGUMENT')
    }
  })

  it('takes raw bytes as they are', async () => {
    const bytes = Uint8Array.from([0x80, 0x3f, 0xc1, 0x7f])
    using t = Tensor.fromBytes(bytes, { dtype: 'bf16', device })
    expect(t.shape).toEqual([2])
    expect([...(await t.toBytes())]).toEqual([...bytes])
    expect((await t.toFloat32Array())[0]).toBe(bf16ToF32(0x3f80))
    expect(await code(() => Tensor.fromBytes(bytes, { dtype: 'f32', shape: [2], device }))).toBe('SHAPE_MISMATCH')
  })

  it('makes zeros of every dtype, also over recycled memory', async () => {
    for (const dtype of ['f32', 'f64', 'bf16', 'f16', 'e4m3', 'e5m2', 'i32', 'i64', 'u8', 'bool'] as TensorDType[]) {
      const dirty = Tensor.fromBytes(new Uint8Array(512).fill(255), { dtype: 'u8', device })
      dirty.dispose()
      using t = Tensor.zeros([3, 5], { dtype, device })
      expect((await t.toBytes()).every((b) => b === 0)).toBe(true)
    }
  })

  it('handles scalars and tensors without elements', async () => {
    using scalar = Tensor.from([7], { shape: [], dtype: 'f32', device })
    expect([...(await scalar.toFloat32Array())]).toEqual([7])
    for (const dtype of ['f32', 'bf16', 'i32'] as TensorDType[]) {
      using none = Tensor.zeros([0, 4], { dtype, device })
      none.write([])
      expect((await none.toBytes()).length).toBe(0)
      expect((dtype === 'i32' ? await none.toInt32Array() : await none.toFloat32Array()).length).toBe(0)
    }
  })

  it('copies the data when called, not when it lands', async () => {
    const data = new Float32Array(1 << 20).fill(1)
    using t = Tensor.from(data, { dtype: 'f32', device })
    data.fill(2)
    const small = Float32Array.of(5)
    using first = t.rows(0, 1)
    first.write(small)
    small[0] = 6
    const read = await t.toFloat32Array()
    expect(read[0]).toBe(5)
    expect(read.subarray(1).every((v) => v === 1)).toBe(true)
  })

  it('refuses wrong shapes, dtypes and devices', async () => {
    expect(await code(() => Tensor.from([1, 2], { shape: [3], dtype: 'f32', device }))).toBe('SHAPE_MISMATCH')
    expect(await code(() => Tensor.empty([-1], { dtype: 'f32', device }))).toBe('INVALID_ARGUMENT')
    expect(await code(() => Tensor.empty([1, 1, 1, 1, 1, 1], { dtype: 'f32', device }))).toBe('INVALID_ARGUMENT')
    expect(await code(() => Tensor.empty([1], { dtype: 'e8m0' as TensorDType, device }))).toBe('DTYPE_MISMATCH')
    expect(await code(() => Tensor.empty([2 ** 46], { dtype: 'f32', device }))).toBe('OUT_OF_MEMORY')
    using ints = Tensor.zeros([1], { dtype: 'i32', device })
    using floats = Tensor.zeros([1], { dtype: 'f32', device })
    expect(await code(ints.toFloat32Array())).toBe('DTYPE_MISMATCH')
    expect(await code(floats.toInt32Array())).toBe('DTYPE_MISMATCH')
    const other = await openDevice('cpu', { threads: 1 })
    expect(await code(() => Tensor.empty([1], { dtype: 'f32', device, queue: other.queue }))).toBe('INVALID_ARGUMENT')
    expect(await code(floats.toBytes(other.queue))).toBe('INVALID_ARGUMENT')
    await other.dispose()
  })
})

describe('views', () => {
  const counting = (shape: number[]): Tensor => {
    const n = shape.reduce((a, b) => a * b, 1)
    return Tensor.from(Float32Array.from({ length: n }, (_, i) => i), { shape, dtype: 'f32', device })
  }

  it('share memory with the tensor', async () => {
    using t = counting([2, 3, 4])
    using flat = t.view([24])
    using row = t.rows(1, 2)
    using col = t.columns(1, 3)
    using cell = row.columns(2, 3)
    expect([...(await row.toFloat32Array())]).toEqual([...(await flat.toFloat32Array())].slice(12))
    expect(col.shape).toEqual([2, 3, 2])
    expect(col.rowStride).toBe(4)
    expect(col.isContiguous).toBe(false)
    expect([...(await col.toFloat32Array())]).toEqual([1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22])
    expect([...(await cell.toFloat32Array())]).toEqual([14, 18, 22])
    cell.write([-1, -2, -3])
    const all = await t.toFloat32Array()
    expect([all[14], all[18], all[22], all[13], all[15]]).toEqual([-1, -2, -3, 13, 15])
  })

  it('read strided tensors of every float dtype', async () => {
    for (const dtype of ['f32', 'bf16', 'f64'] as const) {
      using t = Tensor.from([1, 2, 3, 4, 5, 6], { shape: [2, 3], dtype, device })
      using c = t.columns(1, 3)
      expect([...(await c.toFloat32Array())]).toEqual([2, 3, 5, 6])
    }
  })

  it('copy large strided tensors both ways', async () => {
    using t = Tensor.zeros([3000, 700], { dtype: 'f32', device })
    using c = t.columns(100, 600)
    const data = Float32Array.from({ length: 3000 * 500 }, (_, i) => i)
    c.write(data)
    expect(Buffer.compare(Buffer.from((await c.toFloat32Array()).buffer), Buffer.from(data.buffer))).toBe(0)
    const all = await t.toFloat32Array()
    expect(all[99]).toBe(0)
    expect(all[600]).toBe(0)
    expect(all[700 * 2999 + 599]).toBe(data.at(-1))
  })

  it('slice vectors', async () => {
    using t = counting([6])
    using middle = t.rows(2, 5)
    using last = middle.columns(2, 3)
    expect([...(await middle.toFloat32Array())]).toEqual([2, 3, 4])
    expect([...(await last.toFloat32Array())]).toEqual([4])
    expect(last.isContiguous).toBe(true)
  })

  it('refuse ranges outside and shapes that do not fit', async () => {
    using t = counting([4, 6])
    using c = t.columns(0, 3)
    using one = c.rows(0, 1)
    expect(one.isContiguous).toBe(true)
    expect(await code(() => t.rows(0, 5))).toBe('INVALID_ARGUMENT')
    expect(await code(() => t.rows(-1, 2))).toBe('INVALID_ARGUMENT')
    expect(await code(() => t.columns(4, 3))).toBe('INVALID_ARGUMENT')
    expect(await code(() => t.columns(0.5, 3))).toBe('INVALID_ARGUMENT')
    expect(await code(() => t.view([5, 5]))).toBe('SHAPE_MISMATCH')
    expect(await code(() => t.view([1, 1, 1, 1, 4, 6]))).toBe('INVALID_ARGUMENT')
    expect(await code(() => c.view([12]))).toBe('INVALID_ARGUMENT')
    using scalar = Tensor.from([1], { shape: [], dtype: 'f32', device })
    expect(await code(() => scalar.rows(0, 1))).toBe('INVALID_ARGUMENT')
  })

  it('keep the memory alive after the first handle', async () => {
    const before = device.memoryStats().allocations
    const t = counting([4])
    const v = t.rows(1, 3)
    t.dispose()
    expect(device.memoryStats().allocations).toBe(before + 1)
    using noise = Tensor.from([9, 9, 9, 9], { dtype: 'f32', device })
    expect([...(await v.toFloat32Array())]).toEqual([1, 2])
    v.dispose()
    expect(device.memoryStats().allocations).toBe(before + 1)
    noise.dispose()
    expect(device.memoryStats().allocations).toBe(before)
  })
})

describe('a disposed tensor', () => {
  const methods: Record<string, (t: Tensor) => unknown> = {
    view: (t) => t.view([4]),
    rows: (t) => t.rows(0, 1),
    columns: (t) => t.columns(0, 1),
    write: (t) => t.write([1, 2, 3, 4]),
    toFloat32Array: (t) => t.toFloat32Array(),
    toInt32Array: (t) => t.toInt32Array(),
    toBytes: (t) => t.toBytes(),
  }

  it.each(Object.keys(methods))('refuses %s()', async (name) => {
    const t = Tensor.from([1, 2, 3, 4], { shape: [2, 2], dtype: 'f32', device })
    t.dispose()
    expect(await code(async () => methods[name]!(t))).toBe('DISPOSED')
  })

  it.each(Object.keys(methods))('refuses %s() when its device is gone', async (name) => {
    const other = await openDevice('cpu', { threads: 1 })
    const t = Tensor.from([1, 2, 3, 4], { shape: [2, 2], dtype: 'f32', device: other })
    await other.dispose()
    expect(t.disposed).toBe(true)
    expect(await code(async () => methods[name]!(t))).toBe('DISPOSED')
    expect(() => t.dispose()).not.toThrow()
  })

  it('still tells its shape, and disposes again in silence', () => {
    const t = Tensor.from([1, 2], { dtype: 'f32', device })
    const before = device.memoryStats().allocations
    t.dispose()
    t.dispose()
    t[Symbol.dispose]()
    expect(device.memoryStats().allocations).toBe(before - 1)
    expect(t.shape).toEqual([2])
    expect(t.byteLength).toBe(8)
    expect(t.disposed).toBe(true)
  })

  it('covers every public method', () => {
    const known = new Set([...Object.keys(methods), 'constructor', 'dispose', 'check', 'encode', 'alias', 'strip', 'abandon'])
    const all = Object.getOwnPropertyNames(Tensor.prototype).filter((name) => typeof Object.getOwnPropertyDescriptor(Tensor.prototype, name)!.value === 'function')
    expect(all.filter((name) => !known.has(name))).toEqual([])
  })
})
