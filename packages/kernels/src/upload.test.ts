import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OctetError, f32ToBf16, f32ToF16, itemSize, type DType, type TensorSource } from '@octet-llm/core'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from './device.js'
import type { TensorDType } from './dtype-codes.js'
import { fill } from './ops/fill.js'
import { scope } from './scope.js'
import { Tensor } from './tensor.js'
import { upload } from './upload.js'

let device: Device
let folder: string
let count = 0
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 })
  folder = mkdtempSync(join(tmpdir(), 'octet-upload-'))
})
afterAll(async () => {
  await device.dispose()
  rmSync(folder, { recursive: true })
})
afterEach(async () => {
  await device.synchronize()
  expect(device.memoryStats().allocations).toBe(0)
})

async function code(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'no error',
    (error: unknown) => (OctetError.is(error) ? error.code : String(error)),
  )
}

/** A file of `prefix` odd bytes, then `bytes`. */
function source(bytes: Uint8Array, dtype: DType, shape: readonly number[], strides?: readonly number[], prefix = 13): TensorSource & { path: string } {
  const path = join(folder, `${count++}.bin`)
  const all = new Uint8Array(prefix + bytes.length + 5).fill(0xee)
  all.set(bytes, prefix)
  writeFileSync(path, all)
  return { name: 'w', path, offset: prefix, byteLength: bytes.length, dtype, shape, ...(strides === undefined ? {} : { strides }) }
}

const ramp = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => ((i * 7919) % 4001) - 2000)
const bytesOf = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength)
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

describe('upload', () => {
  it('reads bytes of the same dtype as they are', async () => {
    for (const n of [1, 3, 1000, 3_000_001]) {
      const bytes = bytesOf(ramp(n))
      using t = Tensor.zeros([n], { dtype: 'f32', device })
      await upload(source(bytes, 'f32', [n]), t)
      expect(same(await t.toBytes(), bytes)).toBe(true)
    }
  })

  it('reads every dtype that tensors have', async () => {
    for (const dtype of ['f64', 'f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'i64', 'i32', 'u8', 'bool'] as TensorDType[]) {
      const bytes = Uint8Array.from({ length: 6 * itemSize(dtype) }, (_, i) => i + 1)
      using t = Tensor.zeros([2, 3], { dtype, device })
      await upload(source(bytes, dtype, [2, 3]), t)
      expect([...(await t.toBytes())]).toEqual([...bytes])
    }
  })

  it('converts on the way, in pieces', async () => {
    const n = 5_000_003 // more than two staging pieces
    const values = ramp(n)
    const codes = Array.from({ length: 4001 }, (_, i) => f32ToF16((i - 2000) / 16))
    const half = Uint16Array.from(values, (v) => codes[v + 2000]!)
    using bf16 = Tensor.zeros([n], { dtype: 'bf16', device })
    using f32 = Tensor.zeros([n], { dtype: 'f32', device })
    await Promise.all([upload(source(bytesOf(values), 'f32', [n]), bf16), upload(source(bytesOf(half), 'f16', [n]), f32)])
    expect(same(await bf16.toBytes(), bytesOf(Uint16Array.from(values, f32ToBf16)))).toBe(true)
    expect(same(await f32.toBytes(), bytesOf(values.map((v) => v / 16)))).toBe(true)
    const doubles = Float64Array.from(values.subarray(0, 100))
    using narrow = Tensor.zeros([10, 10], { dtype: 'f32', device })
    await upload(source(bytesOf(doubles), 'f64', [10, 10]), narrow)
    expect(same(await narrow.toBytes(), bytesOf(values.slice(0, 100)))).toBe(true)
  })

  it('fills a slice of columns, and only that', async () => {
    const values = ramp(700 * 3000).map((v) => v % 200) // bf16 holds these
    for (const dtype of ['f32', 'bf16'] as const) {
      using wide = Tensor.zeros([700, 3004], { dtype, device })
      using middle = wide.columns(2, 3002)
      await upload(source(bytesOf(values), 'f32', [700, 3000]), middle)
      const all = await wide.toFloat32Array()
      let wrong = 0
      for (let r = 0; r < 700; r++) for (let c = 0; c < 3004; c++) if (all[r * 3004 + c] !== (c < 2 || c >= 3002 ? 0 : values[r * 3000 + c - 2])) wrong++
      expect(wrong).toBe(0)
    }
  })

  it('repacks any strides (random shapes and permutations)', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 }),
        fc.infiniteStream(fc.nat()),
        fc.constantFrom('u8' as const, 'bf16' as const, 'f32' as const, 'f64' as const),
        fc.boolean(),
        fc.integer({ min: 0, max: 2 }),
        async (shape, random, dtype, convert, gap) => {
          // Strides of a permuted layout, with gaps between elements, sometimes an expanded (stride 0) axis.
          const order = shape.map((_, d) => d).sort(() => (random.next().value % 3) - 1)
          const strides = shape.map(() => 0)
          let step = 1 + gap
          for (const d of order) {
            if (random.next().value % 5 === 0) continue
            strides[d] = step
            step *= shape[d]!
          }
          const item = itemSize(dtype)
          const elements = 1 + shape.reduce((sum, n, d) => sum + (n - 1) * strides[d]!, 0)
          const storage = bytesOf(dtype === 'f64' ? Float64Array.from(ramp(elements)) : dtype === 'f32' ? ramp(elements) : Uint8Array.from({ length: elements * item }, (_, i) => (i * 37) % 64))
          const target: TensorDType = convert && dtype !== 'u8' ? (dtype === 'f32' ? 'bf16' : 'f32') : dtype
          using t = Tensor.zeros(shape, { dtype: target, device })
          await upload(source(storage, dtype, shape, strides), t)
          using plain = Tensor.zeros(shape, { dtype: target, device })
          const packed = new Uint8Array(plain.byteLength === 0 ? 0 : (plain.byteLength / itemSize(target)) * item)
          const index = shape.map(() => 0)
          for (let i = 0; i * item < packed.length; i++) {
            const at = index.reduce((sum, n, d) => sum + n * strides[d]!, 0) * item
            packed.set(storage.subarray(at, at + item), i * item)
            for (let d = shape.length - 1; d >= 0 && ++index[d]! === shape[d]; d--) index[d] = 0
          }
          await upload(source(packed, dtype, shape), plain)
          expect([...(await t.toBytes())]).toEqual([...(await plain.toBytes())])
        },
      ),
      { numRuns: 60 },
    )
  })

  it('repacks a large transpose', async () => {
    const [rows, cols] = [900, 1100]
    const values = ramp(rows * cols)
    using t = Tensor.zeros([cols, rows], { dtype: 'f32', device })
    await upload(source(bytesOf(values), 'f32', [cols, rows], [1, cols]), t)
    const read = await t.toFloat32Array()
    let wrong = 0
    for (let c = 0; c < cols; c++) for (let r = 0; r < rows; r++) if (read[c * rows + r] !== values[r * cols + c]) wrong++
    expect(wrong).toBe(0)
  })

  it('takes scalars, empty tensors and storages longer than needed', async () => {
    using scalar = Tensor.zeros([], { dtype: 'f32', device })
    await upload(source(bytesOf(Float32Array.of(4)), 'f32', []), scalar)
    expect([...(await scalar.toFloat32Array())]).toEqual([4])
    using none = Tensor.zeros([0, 3], { dtype: 'f32', device })
    await upload(source(new Uint8Array(0), 'f32', [0, 3]), none)
    using row = Tensor.zeros([1, 3], { dtype: 'f32', device })
    await upload(source(bytesOf(ramp(8)), 'f32', [1, 3], [99, 1]), row)
    expect([...(await row.toFloat32Array())]).toEqual([...ramp(3)])
  })

  it('lands after the ops that still use recycled memory', async () => {
    const old = Tensor.zeros([2_000_000], { dtype: 'f32', device })
    for (let i = 0; i < 200; i++) fill({ out: old, value: i })
    old.dispose()
    using t = Tensor.empty([2_000_000], { dtype: 'f32', device })
    expect(t.address).toBe(old.address)
    const bytes = bytesOf(ramp(2_000_000))
    await upload(source(bytes, 'f32', [2_000_000]), t)
    expect(same(await t.toBytes(), bytes)).toBe(true)
  })

  it('holds the memory when the target is disposed meanwhile, in a scope too', async () => {
    const bytes = bytesOf(ramp(1_000_000))
    const file = source(bytes, 'f32', [1_000_000])
    const pending = scope(() => ({ done: upload(file, Tensor.empty([1_000_000], { dtype: 'f32', device })) })).done
    using other = Tensor.zeros([1_000_000], { dtype: 'f32', device })
    await pending
    expect((await other.toFloat32Array()).every((v) => v === 0)).toBe(true)
  })
})

describe('upload refuses', () => {
  it('shapes, dtypes and sizes that do not fit', async () => {
    const bytes = bytesOf(ramp(6))
    using t = Tensor.zeros([2, 3], { dtype: 'f32', device })
    using ints = Tensor.zeros([6], { dtype: 'i64', device })
    expect(await code(upload(source(bytes, 'f32', [6]), t))).toBe('SHAPE_MISMATCH')
    expect(await code(upload(source(bytes, 'e8m0', [2, 3]), t))).toBe('DTYPE_MISMATCH')
    expect(await code(upload(source(bytes, 'f32', [6]), ints))).toBe('DTYPE_MISMATCH')
    expect(await code(upload({ ...source(bytes, 'f32', [2, 3]), byteLength: 23 }, t))).toBe('INVALID_ARGUMENT')
    expect(await code(upload({ ...source(bytes, 'f32', [2, 3]), byteLength: 25 }, t))).toBe('INVALID_ARGUMENT')
    expect(await code(upload(source(bytes, 'f32', [2, 3], [4, 1]), t))).toBe('INVALID_ARGUMENT')
    expect(await code(upload(source(bytes, 'f32', [2, 3], [-1, 1]), t))).toBe('INVALID_ARGUMENT')
    expect(await code(upload(source(bytes, 'f32', [2, 3], [1]), t))).toBe('INVALID_ARGUMENT')
    expect(await code(upload({ ...source(bytes, 'f32', [2, 3]), path: join(folder, 'absent') }, t))).toBe('FILE_NOT_FOUND')
    expect((await t.toFloat32Array()).every((v) => v === 0)).toBe(true)
  })

  it('a file that ends early, also when it shrinks while it is read', async () => {
    using t = Tensor.zeros([100_000], { dtype: 'f32', device })
    using half = Tensor.zeros([100_000], { dtype: 'bf16', device })
    for (const target of [t, half]) {
      const file = source(bytesOf(ramp(100_000)), 'f32', [100_000])
      truncateSync(file.path, 300_000)
      const error = await upload(file, target).catch((e: unknown) => e as OctetError)
      expect(error).toMatchObject({ code: 'FILE_CHANGED', op: 'upload', argument: file.path })
    }
    // Shrinks while its pieces are under way: the native read finds the end.
    const n = 60_000_000
    const file = source(new Uint8Array(n * 4), 'f32', [n])
    using big = Tensor.empty([n], { dtype: 'f32', device })
    const pending = code(upload(file, big))
    while (device.loadQueue.pending === 0) await new Promise(setImmediate)
    truncateSync(file.path, 1000)
    expect(await pending).toBe('FILE_CHANGED')
    await device.synchronize()
  })

  it('work after an abort, with the reason unchanged', async () => {
    const file = source(bytesOf(ramp(100)), 'f32', [100])
    using t = Tensor.zeros([100], { dtype: 'f32', device })
    const reason = new Error('enough')
    await expect(upload(file, t, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const controller = new AbortController()
    const n = 40_000_000
    const large = source(new Uint8Array(n * 4), 'f32', [n])
    using big = Tensor.empty([n], { dtype: 'bf16', device })
    const pending = upload(large, big, { signal: controller.signal })
    setImmediate(() => controller.abort(reason))
    await expect(pending).rejects.toBe(reason)
  })

  it('disposed targets and devices', async () => {
    const file = source(bytesOf(ramp(4)), 'f32', [4])
    const t = Tensor.zeros([4], { dtype: 'f32', device })
    t.dispose()
    expect(await code(upload(file, t))).toBe('DISPOSED')
    const other = await openDevice('cpu', { threads: 1 })
    const u = Tensor.zeros([4], { dtype: 'f32', device: other })
    const pending = upload(file, u)
    const [outcome] = await Promise.all([code(pending), other.dispose()])
    expect(['no error', 'DISPOSED']).toContain(outcome)
  })
})
