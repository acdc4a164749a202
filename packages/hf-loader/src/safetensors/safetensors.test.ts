import { truncate, writeFile, readFile, mkdir, symlink, unlink } from 'node:fs/promises'
import { execFileSync } from 'node:child_process'
import { f32ToBf16, f32ToE4m3, f32ToF16 } from '@octet-llm/core'
import { describe, expect, it } from 'vitest'
import { fixture, namesIn, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { openSafetensors, readTensor, readTensorFloat32, writeSafetensors, type TensorEntry } from './index.js'

const temp = useTempFolder()
let files = 0

/** A safetensors file of this header text (or object) and data. */
async function craft(header: string | Buffer | object, data: Uint8Array = new Uint8Array(0), declared?: bigint): Promise<string> {
  const json = Buffer.isBuffer(header) ? header : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(declared ?? BigInt(json.length))
  const path = temp.path(`crafted-${files++}.safetensors`)
  await writeFile(path, Buffer.concat([length, json, data]))
  return path
}

const tensor = (dtype: string, shape: unknown, ...data_offsets: unknown[]): object => ({ dtype, shape, data_offsets })

describe('openSafetensors', () => {
  it('reads a file of transformers', async () => {
    const file = await openSafetensors(fixture('variants/llama-rope3/model.safetensors'))
    expect([...file.metadata]).toEqual([['format', 'pt']])
    expect(file.tensors.size).toBe(30)
    expect(file.tensors.get('model.norm.weight')).toMatchObject({ dtype: 'bf16', shape: [64], byteLength: 128 })
    const bytes = await file.read('model.norm.weight')
    const values = await file.readFloat32('model.norm.weight')
    expect(bytes.byteLength).toBe(128)
    expect(values.every((value, i) => f32ToBf16(value) === bytes[2 * i]! + 256 * bytes[2 * i + 1]!)).toBe(true)
    const source = file.source('model.norm.weight')
    expect(source).toMatchObject({ name: 'model.norm.weight', path: file.path, dtype: 'bf16', shape: [64], byteLength: 128 })
    expect(await readTensor(source)).toEqual(bytes)
    expect(await readTensorFloat32(source)).toEqual(values)
    const whole = await readFile(file.path)
    expect(Buffer.compare(whole.subarray(source.offset, source.offset + 128), bytes)).toBe(0)
    await file.close()
    await file.close()
    await octetError(file.read('model.norm.weight'), 'DISPOSED')
  })

  it('decodes every element type', async () => {
    const f32 = [1.5, -0, Infinity, -3.25]
    const entries: TensorEntry[] = [
      { name: 'f64', dtype: 'f64', shape: [2], data: new Float64Array([0.1, -1e300]) },
      { name: 'f32', dtype: 'f32', shape: [4], data: new Float32Array(f32) },
      { name: 'f16', dtype: 'f16', shape: [4], data: Uint16Array.from(f32, f32ToF16) },
      { name: 'bf16', dtype: 'bf16', shape: [4], data: Uint16Array.from(f32, f32ToBf16) },
      { name: 'e4m3', dtype: 'e4m3', shape: [2], data: Uint8Array.from([f32ToE4m3(1.5), 0x7f]) },
      { name: 'e5m2', dtype: 'e5m2', shape: [2], data: Uint8Array.from([0x3c, 0x7c]) },
      { name: 'e8m0', dtype: 'e8m0', shape: [3], data: Uint8Array.from([127, 130, 255]) },
      { name: 'i64', dtype: 'i64', shape: [2], data: new BigInt64Array([-5n, 2n ** 40n]) },
      { name: 'u64', dtype: 'u64', shape: [1], data: new BigUint64Array([2n ** 63n]) },
      { name: 'i32', dtype: 'i32', shape: [1], data: new Int32Array([-7]) },
      { name: 'u32', dtype: 'u32', shape: [1], data: new Uint32Array([2 ** 31]) },
      { name: 'i16', dtype: 'i16', shape: [1], data: new Int16Array([-300]) },
      { name: 'u16', dtype: 'u16', shape: [1], data: new Uint16Array([65535]) },
      { name: 'i8', dtype: 'i8', shape: [1], data: new Int8Array([-128]) },
      { name: 'u8', dtype: 'u8', shape: [1], data: new Uint8Array([255]) },
      { name: 'bool', dtype: 'bool', shape: [2], data: new Uint8Array([1, 0]) },
    ]
    const path = temp.path('dtypes.safetensors')
    await writeSafetensors(path, entries)
    const file = await openSafetensors(path)
    const expected: Record<string, number[]> = {
      f64: [Math.fround(0.1), -Infinity], f32, f16: f32, bf16: f32, e4m3: [1.5, NaN], e5m2: [1, Infinity], e8m0: [1, 8, NaN],
      i64: [-5, 2 ** 40], u64: [2 ** 63], i32: [-7], u32: [2 ** 31], i16: [-300], u16: [65535], i8: [-128], u8: [255], bool: [1, 0],
    }
    for (const { name } of entries) {
      const values = [...(await file.readFloat32(name))]
      expect(values.every((value, i) => Object.is(value, expected[name]![i])), `${name}: ${values.join()}`).toBe(true)
      expect(values.length).toBe(expected[name]!.length)
    }
    await file.close()
  })

  it('reads in bounded pieces, to the last odd one', async () => {
    const path = temp.path('pieces.safetensors')
    await writeSafetensors(path, [{ name: 'x', dtype: 'f32', shape: [1000], data: Float32Array.from({ length: 1000 }, (_, i) => i) }])
    const file = await openSafetensors(path)
    const lengths: number[] = []
    const all: number[] = []
    for await (const chunk of file.chunks('x', { chunkBytes: 1023 })) {
      lengths.push(chunk.byteLength)
      all.push(...new Float32Array(chunk.slice().buffer))
    }
    expect(lengths).toEqual([1020, 1020, 1020, 940])
    expect(all).toEqual(Array.from({ length: 1000 }, (_, i) => i))
    for (const chunkBytes of [0, 3, 1.5, NaN, 2 ** 31]) {
      await octetError(async () => { for await (const _ of file.chunks('x', { chunkBytes })) continue }, 'INVALID_ARGUMENT', /chunkBytes/)
    }
    await file.close()
  })

  it('accepts what the reference accepts', async () => {
    const a = tensor('U8', [3], 0, 3)
    const b = tensor('F32', [1], 3, 7)
    const seven = Uint8Array.from([1, 2, 3, 0, 0, 0x80, 0x3f])
    const accepted: [string | object, Uint8Array?][] = [
      ['{}'], [' \n\t{} \r\n'], [{ __metadata__: null }], [{ __metadata__: {} }],
      [{ a, b }, seven], [{ b, a }, seven],
      [{ z: tensor('F32', [0, 9], 3, 3), a, b }, seven],
      [{ a, z: tensor('F32', [0], 0, 0), b }, seven],
      [{ s: tensor('I8', [], 0, 1) }, Uint8Array.from([5])],
      [{ a: { ...a, extra: { deep: [[[{}]]] } } }, seven.subarray(0, 3)],
      ['{"a":{"dtype":"F64","shape":[99],"data_offsets":[0,792]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}', seven.subarray(0, 3)],
    ]
    for (const [header, data] of accepted) {
      const file = await openSafetensors(await craft(header, data))
      if (file.tensors.has('b')) expect([...(await file.readFloat32('b'))]).toEqual([1])
      if (file.tensors.has('s')) expect([...(await file.readFloat32('s'))]).toEqual([5])
      expect(file.metadata.size).toBe(0)
      await file.close()
    }
    const swapped = await openSafetensors(await craft({ b, a }, seven))
    expect([...swapped.tensors.keys()]).toEqual(['a', 'b'])
    await swapped.close()
  })

  it('keeps names that JavaScript objects would trip over', async () => {
    const names = ['__proto__', 'constructor', 'toString', '', 'ü\u2028"\\']
    const header = `{"__metadata__":{"__proto__":"x"},${names.map((name, i) => `${JSON.stringify(name)}:{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`).join()}}`
    const file = await openSafetensors(await craft(header, Uint8Array.from([1, 2, 3, 4, 5])))
    expect([...file.tensors.keys()]).toEqual(names)
    expect([...file.metadata]).toEqual([['__proto__', 'x']])
    expect([...(await file.read('__proto__'))]).toEqual([1])
    expect(({} as Record<string, unknown>)['dtype']).toBeUndefined()
    await octetError(() => file.source('hasOwnProperty'), 'INVALID_ARGUMENT', /hasOwnProperty/)
    await file.close()
  })

  const one = Uint8Array.from([7])
  const ok = tensor('U8', [1], 0, 1)
  it.each<[string, string | Buffer | object, Uint8Array?, RegExp?]>([
    ['text that is no JSON', 'hello'],
    ['an empty header', ''],
    ['an array at the root', '[]'],
    ['a string at the root', '"a"'],
    ['bad UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), undefined, /UTF-8/],
    ['text after the object', '{}{}'],
    ['a NUL after the object', '{}\0'],
    ['a metadata value that is no string', { __metadata__: { a: 1 } }],
    ['metadata that is no object', { __metadata__: 'a' }],
    ['repeated metadata', '{"__metadata__":{},"__metadata__":{}}', undefined, /repeated/],
    ['a repeated field', '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', one, /repeated/],
    ['a tensor that is no object', { a: 1 }, one],
    ['a tensor that is an array', { a: ['U8', [1], [0, 1]] }, one],
    ['an unknown dtype', { a: tensor('F33', [1], 0, 1) }, one, /F33/],
    ['a dtype in lower case', { a: tensor('u8', [1], 0, 1) }, one],
    ['a dtype that is no string', { a: { dtype: 1, shape: [1], data_offsets: [0, 1] } }, one],
    ['a dtype of Object.prototype', { a: tensor('constructor', [1], 0, 1) }, one],
    ['a missing dtype', { a: { shape: [1], data_offsets: [0, 1] } }, one],
    ['a missing shape', { a: { dtype: 'U8', data_offsets: [0, 1] } }, one],
    ['missing offsets', { a: { dtype: 'U8', shape: [1] } }, one],
    ['a null shape', { a: { dtype: 'U8', shape: null, data_offsets: [0, 1] } }, one],
    ['a negative shape', { a: tensor('U8', [-1], 0, 1) }, one],
    ['a fractional shape', '{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', one],
    ['a shape in exponent form', '{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', one],
    ['one offset', { a: tensor('U8', [1], 0) }, one, /data_offsets/],
    ['three offsets', { a: tensor('U8', [1], 0, 1, 1) }, one, /data_offsets/],
    ['offsets that run backwards', { a: tensor('U8', [1], 1, 0) }, one],
    ['a shape of 1025 axes', { a: tensor('U8', Array.from({ length: 1025 }, () => 1), 0, 1) }, one, /1024/],
    ['a length that is not the shape', { a: tensor('U8', [2], 0, 1) }, one, /2 bytes/],
    ['a product past 2^53', { a: tensor('U8', [2 ** 40, 2 ** 40], 0, 1) }, one, /2\^53/],
    ['a product that comes back to 0', { a: tensor('U8', [2 ** 40, 2 ** 40, 0], 0, 0) }, undefined, /2\^53/],
    ['a product of bytes past 2^53', { a: tensor('F64', [2 ** 52], 0, 1) }, one, /2\^53/],
    ['a gap at the front', { a: tensor('U8', [1], 1, 2) }, Uint8Array.from([1, 2]), /gap/],
    ['a gap in the middle', { a: ok, b: tensor('U8', [1], 2, 3) }, Uint8Array.from([1, 2, 3]), /gap/],
    ['an overlap', { a: tensor('U8', [2], 0, 2), b: tensor('U8', [2], 1, 3) }, Uint8Array.from([1, 2, 3]), /overlap/],
    ['the same bytes twice', { a: ok, b: ok }, one, /overlap/],
    ['data past the last tensor', { a: ok }, Uint8Array.from([1, 2]), /2 bytes/],
    ['less data than the tensors', { a: tensor('U8', [2], 0, 2) }, one, /data/],
    ['a dtype deep in a list', '{"a":' + '['.repeat(1e5) + ']'.repeat(1e5) + '}'],
    ['an unknown field nested 10^5 deep', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":' + '{"y":'.repeat(1e5) + '1' + '}'.repeat(1e5) + '}}', one, /deeper/],
    ['an unknown field that does not end', '{"a":{"x":' + '['.repeat(1e5)],
  ])('refuses %s', async (_, header, data, message) => {
    await octetError(openSafetensors(await craft(header, data)), 'INVALID_SAFETENSORS', message)
  })

  it.each(['F4', 'F6_E2M3', 'F6_E3M2', 'C64', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'])('names %s as a type it does not know', async (dtype) => {
    await octetError(openSafetensors(await craft({ a: tensor(dtype, [8], 0, 8) }, new Uint8Array(8))), 'NOT_SUPPORTED', new RegExp(dtype))
  })

  it('checks the header length before it allocates', async () => {
    for (const declared of [3n, 100_000_000n, 100_000_001n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      await octetError(openSafetensors(await craft('{}', undefined, declared)), 'INVALID_SAFETENSORS', /header length/)
    }
    await octetError(openSafetensors(await craft('{}', undefined, 1n)), 'INVALID_SAFETENSORS')
    const large = await craft('{}', undefined, 100_000_001n)
    await truncate(large, 200_000_000)
    await octetError(openSafetensors(large), 'INVALID_SAFETENSORS', /expected at most 100000000, received 100000001/)
    await unlink(large)
    for (const length of [0, 7]) {
      const path = temp.path(`short-${length}`)
      await writeFile(path, Buffer.alloc(length))
      await octetError(openSafetensors(path), 'INVALID_SAFETENSORS', /at least 8/)
    }
  })

  it('names what cannot be opened', async () => {
    await mkdir(temp.path('folder'), { recursive: true })
    await octetError(openSafetensors(temp.path('absent')), 'FILE_NOT_FOUND', /ENOENT/)
    await octetError(openSafetensors(temp.path('folder')), 'FILE_NOT_FOUND', /regular file/)
    await octetError(openSafetensors('a\0b'), 'FILE_NOT_FOUND')
    const pipe = temp.path('pipe')
    execFileSync('mkfifo', [pipe])
    await octetError(openSafetensors(pipe), 'FILE_NOT_FOUND', /regular file/)
    const loop = temp.path('loop')
    await symlink(loop, loop)
    await octetError(openSafetensors(loop), 'FILE_NOT_FOUND')
    await unlink(loop)
  })

  it('notices a file that shrinks while it is open', async () => {
    const path = await craft({ a: tensor('U8', [100], 0, 100) }, new Uint8Array(100))
    const file = await openSafetensors(path)
    const source = file.source('a')
    await truncate(path, source.offset + 60)
    const error = await octetError(file.read('a'), 'FILE_CHANGED', /100 bytes/)
    expect(error.received).toContain('60 bytes')
    await octetError(file.readFloat32('a'), 'FILE_CHANGED')
    await octetError(readTensor(source), 'FILE_CHANGED')
    await octetError(readTensorFloat32(source), 'FILE_CHANGED')
    await file.close()
  })

  it('refuses one array past 1 GiB but hands it out in pieces', async () => {
    const length = 2 ** 30 + 4
    const json = Buffer.from(JSON.stringify({ a: tensor('F32', [length / 4], 0, length) }))
    const path = await craft(json)
    await truncate(path, 8 + json.length + length)
    const file = await openSafetensors(path)
    await octetError(file.read('a'), 'NOT_SUPPORTED', /chunks/)
    await octetError(file.readFloat32('a'), 'NOT_SUPPORTED', /chunks/)
    for await (const chunk of file.chunks('a', { chunkBytes: 64 })) {
      expect(chunk.byteLength).toBe(64)
      break
    }
    await file.close()
    await unlink(path)
  })

  it('throws the reason of an abort unchanged', async () => {
    const reason = new Error('enough')
    const path = fixture('variants/llama-rope3/model.safetensors')
    await expect(openSafetensors(path, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const file = await openSafetensors(path)
    await expect(file.read('model.norm.weight', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    await expect(file.readFloat32('model.norm.weight', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    await file[Symbol.asyncDispose]()
  })
})

describe('writeSafetensors', () => {
  const bytes = (n: number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => i)

  it.each([
    'variants/llama-rope3/model.safetensors', 'variants/llama-fp8-block128/model.safetensors', 'variants/llama-fp8-ct-tensor-static/model.safetensors',
    'fp8/fp8_casts.safetensors', 'fairy-gemma/model-00001-of-00003.safetensors', 'lora-fairy-llama/adapter_model.safetensors',
  ])('writes %s as the reference did, byte for byte', async (name) => {
    const file = await openSafetensors(fixture(name))
    const entries = [...file.tensors.entries()].reverse().map(([name, { dtype, shape }]): TensorEntry => ({
      name, dtype, shape, data: () => file.chunks(name, { chunkBytes: 1000 }),
    }))
    const path = temp.path('copy.safetensors')
    await writeSafetensors(path, entries, file.metadata.size > 0 ? { metadata: Object.fromEntries(file.metadata) } : {})
    expect(Buffer.compare(await readFile(path), await readFile(file.path))).toBe(0)
    await file.close()
  })

  it('orders by width, then by the bytes of the name, and pads to 8', async () => {
    const path = temp.path('order.safetensors')
    const names = ['\u{10000}', '\uffff', 'b', 'a']
    await writeSafetensors(path, [
      ...names.map((name): TensorEntry => ({ name, dtype: 'u8', shape: [1], data: bytes(1) })),
      { name: 'wide', dtype: 'f32', shape: [2, 1], data: new Float32Array([1, 2]) },
      { name: 'none', dtype: 'f64', shape: [0], data: new Float64Array(0) },
    ], { metadata: { 'a"': '\n' } })
    const raw = await readFile(path)
    expect(raw.readUInt32LE(0) % 8).toBe(0)
    expect(raw.toString('utf8', 8, 40)).toBe('{"__metadata__":{"a\\"":"\\n"},"no')
    const file = await openSafetensors(path)
    expect([...file.tensors.keys()]).toEqual(['none', 'wide', 'a', 'b', '\uffff', '\u{10000}'])
    expect([...(await file.readFloat32('wide'))]).toEqual([1, 2])
    await file.close()
  })

  it('refuses what would not read back, and leaves nothing behind', async () => {
    await mkdir(temp.path('clean'), { recursive: true })
    const path = temp.path('clean', 'x.safetensors')
    const base: TensorEntry = { name: 'a', dtype: 'f32', shape: [2], data: bytes(8) }
    const bad: [Partial<TensorEntry> | TensorEntry[], RegExp][] = [
      [{ name: '__metadata__' }, /__metadata__/], [{ name: '\ud800' }, /well-formed/], [[base, base], /twice/],
      [{ shape: [-1] }, /non-negative/], [{ shape: [1.5] }, /non-negative/], [{ shape: [2 ** 52, 4] }, /2\^53/],
      [{ data: bytes(7) }, /8 bytes.*7 bytes/], [{ data: bytes(9) }, /9 bytes/],
      [{ data: () => [bytes(4)] }, /4 bytes/], [{ data: () => [bytes(4), bytes(4), bytes(4)] }, /at least 12 bytes/],
    ]
    for (const [change, message] of bad) {
      await octetError(writeSafetensors(path, Array.isArray(change) ? change : [{ ...base, ...change }]), 'INVALID_ARGUMENT', message)
      expect(await namesIn(temp.path('clean'))).toEqual([])
    }
    const endless = function* (): Generator<Uint8Array> {
      for (;;) yield bytes(4)
    }
    await octetError(writeSafetensors(path, [{ ...base, data: endless }]), 'INVALID_ARGUMENT', /at least 12 bytes/)
    await octetError(writeSafetensors(path, [base], { metadata: { a: '\udc00' } }), 'INVALID_ARGUMENT', /well-formed/)
    await octetError(writeSafetensors(path, [base], { metadata: { a: 1 as unknown as string } }), 'INVALID_ARGUMENT', /number/)
    await octetError(writeSafetensors(temp.path('absent', 'x'), [base]), 'FILE_WRITE_FAILED', /ENOENT/)
  })

  it('keeps the old file when a producer fails or the caller aborts', async () => {
    await mkdir(temp.path('keep'), { recursive: true })
    const path = temp.path('keep', 'x.safetensors')
    await writeSafetensors(path, [{ name: 'a', dtype: 'u8', shape: [1], data: bytes(1) }])
    const before = await readFile(path)
    const boom = new Error('boom')
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      yield bytes(4)
      throw boom
    }
    await expect(writeSafetensors(path, [{ name: 'b', dtype: 'u8', shape: [8], data: failing }])).rejects.toBe(boom)
    const controller = new AbortController()
    const aborting = function* (): Generator<Uint8Array> {
      yield bytes(4)
      controller.abort(boom)
      yield bytes(4)
    }
    await expect(writeSafetensors(path, [{ name: 'b', dtype: 'u8', shape: [8], data: aborting }], { signal: controller.signal })).rejects.toBe(boom)
    expect(await readFile(path)).toEqual(before)
    expect(await namesIn(temp.path('keep'))).toEqual(['x.safetensors'])
  })

  it('reports progress to the last byte', async () => {
    const seen: [number, number][] = []
    await writeSafetensors(temp.path('progress'), [
      { name: 'a', dtype: 'u8', shape: [3], data: bytes(3) }, { name: 'b', dtype: 'f32', shape: [], data: bytes(4) },
    ], { onProgress: (written, total) => seen.push([written, total]) })
    expect(seen).toEqual([[4, 7], [7, 7]])
  })
})
