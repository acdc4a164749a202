import { readFile, truncate, writeFile } from 'node:fs/promises'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { openSafetensors } from '../safetensors/index.js'
import { caught, failsOnlyWith, fixture, FUZZ_TIMEOUT, fuzzCases, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { bytes, call, dict, floats, global, int, join, list, orderedDict, pickle, storage, str, tensorV2, torchLegacy, torchZip, tuple, zip, type Piece, type TensorSpec, type ZipSpec } from './build.test-helper.js'
import { openTorchBin, readTensor, type TorchBinFile } from './index.js'
import { REFUSED_OPCODES } from './opcodes.js'
import { PickleTruncated, type PickleList } from './pickle-values.js'
import { TensorHandlers } from './tensors.js'
import { Unpickler } from './unpickler.js'

const temp = useTempFolder()
let files = 0

async function open(contents: Buffer): Promise<TorchBinFile> {
  const path = temp.path(`crafted-${files++ % 50}.bin`)
  await writeFile(path, contents)
  return openTorchBin(path)
}

/** Float32 values of tensor `x`. */
async function values(contents: Buffer, name = 'x'): Promise<number[]> {
  const file = await open(contents)
  try {
    return [...(await file.readFloat32(name))]
  } finally {
    await file.close()
  }
}

const x = (tensor: Piece): Buffer => dict(str('x'), tensor)
const FORMS = ['llama-bin-single/pytorch_model.bin', 'llama-bin-sharded/pytorch_model-00001-of-00002.bin', 'llama-bin-sharded/pytorch_model-00002-of-00002.bin', 'llama-bin-legacy/pytorch_model.bin']

describe('the forms of torch.save', () => {
  it('hold the same bytes as the safetensors of the same model', async () => {
    const reference = await openSafetensors(fixture('variants/llama-rope3/model.safetensors'))
    const seen = new Map<string, number>()
    for (const form of FORMS) {
      const file = await openTorchBin(fixture('variants', form))
      expect(file.layout).toBe(form.includes('legacy') ? 'legacy' : 'zip')
      for (const [name, tensor] of file.tensors) {
        expect(tensor.shape).toEqual(reference.tensors.get(name)!.shape)
        expect(tensor.dtype).toBe('bf16')
        expect(Buffer.compare(await file.read(name), await reference.read(name)), name).toBe(0)
        seen.set(name, (seen.get(name) ?? 0) + 1)
      }
      await file.close()
    }
    expect([...seen.keys()].sort()).toEqual([...reference.tensors.keys()].sort())
    expect([...seen.values()].every((count) => count === 3)).toBe(true)
    await reference.close()
  })

  it('keep views: offsets, transposed axes, unit axes, scalars, empty tensors', async () => {
    const six = { 0: floats(1, 2, 3, 4, 5, 6) }
    const cases: [TensorSpec, number[]][] = [
      [{ size: [2, 3], stride: [3, 1] }, [1, 2, 3, 4, 5, 6]],
      [{ size: [3, 2], stride: [1, 3] }, [1, 4, 2, 5, 3, 6]],
      [{ size: [2, 2], stride: [3, 1], offset: 1 }, [2, 3, 5, 6]],
      [{ size: [3], stride: [2], offset: 1 }, [2, 4, 6]],
      [{ size: [1, 2, 1, 3], stride: [99, 3, 7, 1] }, [1, 2, 3, 4, 5, 6]],
      [{ size: [3, 1, 2], stride: [1, 50, 3] }, [1, 4, 2, 5, 3, 6]],
      [{ size: [], stride: [], offset: 5 }, [6]],
      [{ size: [0, 4], stride: [4, 1] }, []],
      [{ size: [2, 0], stride: [1, 1], offset: 6 }, []],
    ]
    for (const [spec, expected] of cases) {
      const object = x(tensorV2({ length: 6, ...spec }))
      expect(await values(torchZip(object, six))).toEqual(expected)
      expect(await values(torchLegacy(object, [['0', 6, six[0]]]))).toEqual(expected)
    }
    const unit = await open(torchZip(x(tensorV2({ length: 6, size: [1, 2, 1, 3], stride: [99, 3, 7, 1] })), six))
    expect(unit.source('x').strides).toBeUndefined()
    await unit.close()
    const file = await open(torchZip(x(tensorV2({ length: 6, size: [3, 2], stride: [1, 3] })), six))
    expect(file.tensors.get('x')).toMatchObject({ shape: [3, 2], strides: [1, 3], byteLength: 24 })
    expect([...new Float32Array((await readTensor(file.source('x'))).slice().buffer)]).toEqual([1, 4, 2, 5, 3, 6])
    const pieces: Uint8Array[] = []
    for await (const piece of file.chunks('x')) pieces.push(piece)
    expect(pieces.map((piece) => piece.byteLength)).toEqual([24])
    await file.close()
  })

  it('agrees with a plain index walk for random views', async () => {
    const axis = fc.record({ length: fc.integer({ min: 1, max: 4 }), order: fc.nat() })
    await fc.assert(fc.asyncProperty(fc.array(axis, { minLength: 1, maxLength: 4 }), fc.integer({ min: 0, max: 3 }), fc.integer({ min: 1, max: 3 }), async (axes, offset, step) => {
      const size = axes.map(({ length }) => length)
      const stride = size.map(() => 0)
      let next = step
      for (const i of axes.map((_, i) => i).sort((a, b) => axes[a]!.order - axes[b]!.order)) {
        stride[i] = next
        next *= size[i]!
      }
      const length = offset + next
      const data = Float32Array.from({ length }, (_, i) => i)
      const expected = Array.from({ length: size.reduce((a, b) => a * b, 1) }, (_, flat) => {
        let at = offset
        for (let i = size.length - 1, rest = flat; i >= 0; i--) {
          at += (rest % size[i]!) * stride[i]!
          rest = Math.floor(rest / size[i]!)
        }
        return at
      })
      expect(await values(torchZip(x(tensorV2({ length, size, stride, offset })), { 0: Buffer.from(data.buffer) }))).toEqual(expected)
    }), { numRuns: fuzzCases(150) })
  }, FUZZ_TIMEOUT)

  it('share storages, parameters and memoised values', async () => {
    const tied = dict(str('a'), tensorV2(), str('b'), call('torch._utils._rebuild_parameter', tensorV2({ size: [2], offset: 2 }), '\x88', orderedDict()))
    const file = await open(torchZip(tied))
    const [a, b] = [file.source('a'), file.source('b')]
    expect(b.offset).toBe(a.offset + 8)
    expect([...(await file.readFloat32('b'))]).toEqual([3, 4])
    await file.close()
    const memo = join('}q\x00(', str('x'), 'q\x01', tensorV2(), 'r\xff\xff\x00\x00', str('y'), 'j\xff\xff\x00\x00', 'u')
    expect(await values(torchZip(memo), 'y')).toEqual([1, 2, 3, 4])
  })

  it('accept an OrderedDict with its _metadata, SETITEM, a repeated name and every storage class', async () => {
    const metadata = join(dict(str('_metadata'), join(orderedDict(), '(', str(''), dict(str('version'), int(1)), 'u')), 'b')
    expect(await values(torchZip(join(orderedDict(), '(', str('x'), tensorV2(), 'u', metadata)))).toEqual([1, 2, 3, 4])
    expect(await values(torchZip(join('}', str('x'), tensorV2({ size: [1] }), 's', str('x'), tensorV2({ size: [2] }), 's')))).toEqual([1, 2])
    const classes: [string, Buffer, number[]][] = [
      ['Double', Buffer.from(Float64Array.of(1.5).buffer), [1.5]], ['Float', floats(2), [2]], ['Half', bytes(0, 0x3c), [1]], ['BFloat16', bytes(0x80, 0x3f), [1]],
      ['Long', Buffer.from(BigInt64Array.of(-3n).buffer), [-3]], ['Int', Buffer.from(Int32Array.of(-4).buffer), [-4]], ['Short', bytes(0xff, 0xff), [-1]],
      ['Char', bytes(0x80), [-128]], ['Byte', bytes(200), [200]], ['Bool', bytes(1), [1]],
    ]
    for (const [name, data, expected] of classes) {
      expect(await values(torchZip(x(tensorV2({ storage: `torch.${name}Storage`, length: 1, size: [1] })), { 0: data }))).toEqual(expected)
    }
  })

  it('reads float8 tensors of _rebuild_tensor_v3 over untyped storages', async () => {
    const v3 = (dtype: string, ...more: Piece[]): Buffer => call('torch._utils._rebuild_tensor_v3', storage({ storage: 'torch.storage.UntypedStorage' }), int(0), tuple(int(4)), tuple(int(1)), '\x89', orderedDict(), global(dtype), ...more)
    const data = { 0: bytes(0x38, 0xb8, 0x7e, 0) }
    expect(await values(torchZip(x(v3('torch.float8_e4m3fn')), data))).toEqual([1, -1, 448, 0])
    expect(await values(torchZip(x(v3('torch.float8_e5m2', 'N')), { 0: bytes(0x3c, 0xbc, 0x7b, 0) }))).toEqual([1, -1, 57344, 0])
    await octetError(open(torchZip(x(v3('torch.float8_e4m3fn', dict(str('conj'), '\x88'))), data)), 'INVALID_TORCH_FILE', /negative/)
    await octetError(open(torchZip(x(v3('torch.float32')), data)), 'INVALID_TORCH_FILE', /within the 4 bytes/)
    await octetError(open(torchZip(x(v3('torch.FloatStorage')), data)), 'INVALID_TORCH_FILE', /dtype/)
    await octetError(open(torchZip(x(tensorV2({ storage: 'torch.UntypedStorage' })), data)), 'INVALID_TORCH_FILE', /typed/)
    await octetError(open(torchZip(x(v3('torch.complex64')), data)), 'UNSAFE_PICKLE', /torch\.complex64/)
  })

  it('opens a legacy file whose pickles outgrow the first window', async () => {
    const padding = Array.from({ length: 30_000 }, (_, i) => join(str(`pad-${i}-${'n'.repeat(40)}`), tensorV2({ size: [1] })))
    const contents = torchLegacy(dict(...padding, str('x'), tensorV2()))
    expect(contents.length).toBeGreaterThan(2 ** 21)
    expect(await values(contents)).toEqual([1, 2, 3, 4])
    expect(await values(torchZip(dict(...padding, str('x'), tensorV2())))).toEqual([1, 2, 3, 4])
  })
})

it('the unpickler reads numbers as Python writes them, however the bytes arrive', () => {
  const items: [Piece, unknown][] = [
    [int(0), 0], [int(255), 255], [join('M', bytes(0xff, 0xff)), 65535], [int(-1), -1], [int(2 ** 31 - 1), 2 ** 31 - 1], [int(2n ** 40n), 2 ** 40], [int(-(2n ** 40n)), -(2 ** 40)], [int(2n ** 63n), 2n ** 63n], [bytes(0x8a, 0), 0],
    [bytes(0x8a, 1, 0x80), -128], [bytes(0x8a, 2, 0x80, 0), 128], [join('G', bytes(0x3f, 0xf8, 0, 0, 0, 0, 0, 0)), 1.5], ['N', null], ['\x88', true], ['\x89', false], [str('ü'), 'ü'],
  ]
  const contents = pickle(list(...items.map(([piece]) => piece)))
  const whole = new Unpickler(0, new TensorHandlers()).run(contents)
  expect(whole.end).toBe(contents.length)
  expect((whole.value as PickleList).items).toEqual(items.map(([, value]) => value))
  const piecemeal = new Unpickler(0, new TensorHandlers())
  for (let length = 0; length < contents.length; length++) expect(() => piecemeal.run(contents.subarray(0, length))).toThrow(PickleTruncated)
  expect((piecemeal.run(contents).value as PickleList).items).toEqual(items.map(([, value]) => value))
})

describe('hostile pickles', () => {
  it.each(['os.system', 'posix.system', 'builtins.eval', 'builtins.exec', '__builtin__.eval', 'subprocess.Popen', 'torch.load', 'torch.hub.load', 'torch.nn.Module', 'torch._utils._rebuild_tensor',
    'torch._utils._rebuild_device_tensor_from_numpy', 'torch.storage._load_from_bytes', 'collections.defaultdict', 'collections.OrderedDict.fromkeys', '__proto__.constructor', 'torch.constructor', 'torch.__proto__',
    'numpy.core.multiarray.scalar', 'torch.storage.FloatStorage', 'x.torch.FloatStorage'])('refuses global %s by name', async (name) => {
    const pieces = [join(global(name), tuple(str('echo pwned')), 'R'), global(name), x(global(name))]
    for (const piece of pieces) {
      for (const contents of [torchZip(piece), torchLegacy(piece)]) {
        const error = await octetError(open(contents), 'UNSAFE_PICKLE')
        expect(error.message).toContain(JSON.stringify(name))
      }
    }
  })

  it.each([...REFUSED_OPCODES].map(([code, name]) => [name, code] as const))('refuses opcode %s by name', async (name, code) => {
    await octetError(open(torchZip(join(')', bytes(code), 'N'.repeat(64)))), 'UNSAFE_PICKLE', new RegExp(`opcode ${name} at byte 3`))
  })

  const four = { 0: floats(1, 2, 3, 4) }
  const big = 2n ** 60n
  it.each<[string, Piece, RegExp?]>([
    ['nothing', ''],
    ['an unknown opcode', '\x01', /byte 0x1 at byte 2/],
    ['protocol 4', '\x80\x04N', /protocol 4/],
    ['two values', 'NN', /2 values/],
    ['an open mark', 'N(', /one value/],
    ['a tuple without a mark', 'Nt', /mark/],
    ['a list without a mark', ']Ne', /mark/],
    ['a dictionary without a mark', '}u', /mark/],
    ['a pop below the mark', 'N(\x85', /fewer/],
    ['a reduce below the mark', join(global('collections.OrderedDict'), '()R'), /a value on the stack/],
    ['a memo that was never set', 'h\x05', /memo 5/],
    ['a memo far away', 'j\xff\xff\xff\xff', /memo 4294967295/],
    ['a put on an empty stack', 'q\x00', /value on the stack/],
    ['a put below a mark', 'N(q\x00', /value on the stack/],
    ['an append to a tuple', ')Na', /list/],
    ['appends to a dictionary', '}(Ne', /list/],
    ['an item set on a list', ']NNs', /dictionary/],
    ['an odd number of items', '}(NNNu', /pairs/],
    ['attributes of a list', ']}b', /attributes/],
    ['a call of a dictionary', '})R', /rebuilds/],
    ['a call of a storage class', join(global('torch.FloatStorage'), ')R'), /rebuilds/],
    ['a call without a tuple', join(global('collections.OrderedDict'), ']R'), /tuple/],
    ['an OrderedDict of something', join(global('collections.OrderedDict'), '](', 'e\x85R'), /begins empty/],
    ['a string longer than the file', join('X', bytes(0xff, 0xff, 0, 0), 'a'), /ends early/],
    ['a string of 4 GiB', join('X', bytes(0xff, 0xff, 0xff, 0xff), 'a'), /at most/],
    ['a string that is not UTF-8', join('X', bytes(2, 0, 0, 0, 0xff, 0xfe)), /UTF-8/],
    ['a global without an end', 'cos', /ends early/],
    ['a global with a long name', `c${'o'.repeat(1000)}\nx\n`, /at most 256/],
    ['a global with a long name and no end', `c${'o'.repeat(1000)}`, /at most 256/],
    ['a long that is cut', '\x8a\xff\x01', /ends early/],
    ['a tensor alone', tensorV2(), /dictionary of tensors/],
    ['a list of tensors', list(tensorV2()), /dictionary of tensors/],
    ['a nested dictionary', dict(str('state_dict'), x(tensorV2())), /"state_dict".*state_dict itself/],
    ['a number among tensors', dict(str('x'), tensorV2(), str('epoch'), int(3)), /"epoch"/],
    ['a key that is no name', dict(int(1), tensorV2()), /names as keys|storage keys/],
    ['a parameter of nothing', x(call('torch._utils._rebuild_parameter')), /parameter/],
    ['a tensor without arguments', x(call('torch._utils._rebuild_tensor_v2')), /storage/],
    ['a tensor of a storage class', x(call('torch._utils._rebuild_tensor_v2', global('torch.FloatStorage'), int(0), tuple(), tuple())), /storage/],
    ['a size that is no tuple', x(call('torch._utils._rebuild_tensor_v2', storage(), int(0), list(), tuple())), /lengths/],
    ['a negative size', x(tensorV2({ size: [-1] })), /at least 0/],
    ['a negative stride', x(tensorV2({ stride: [-1], offset: 3 })), /at least 0/],
    ['a negative offset', x(tensorV2({ offset: -1 })), /offset/],
    ['a bigint size', x(tensorV2({ size: [big] })), /at least 0/],
    ['a boolean size', x(call('torch._utils._rebuild_tensor_v2', storage(), int(0), tuple('\x88'), tuple(int(1)))), /boolean/],
    ['more sizes than strides', x(tensorV2({ size: [2, 2], stride: [1] })), /2 strides/],
    ['65 axes', x(tensorV2({ size: Array.from({ length: 65 }, () => 1), stride: Array.from({ length: 65 }, () => 1) })), /64/],
    ['one element past the storage', x(tensorV2({ size: [5] })), /within the 16 bytes/],
    ['an offset past the storage', x(tensorV2({ size: [1], offset: 4 })), /within the 16 bytes/],
    ['a stride past the storage', x(tensorV2({ size: [2], stride: [4] })), /within the 16 bytes/],
    ['a product past 2^53', x(tensorV2({ size: [2 ** 31 - 1, 2 ** 31 - 1], stride: [1, 1] })), /2\^53/],
    ['an expanded element', x(tensorV2({ size: [2 ** 30], stride: [0] })), /overlap/],
    ['overlapping rows', x(tensorV2({ size: [3, 2], stride: [1, 1] })), /overlap/],
    ['a negative bit', x(tensorV2({}, [dict(str('neg'), '\x88')])), /negative/],
    ['a storage of another kind', join(tuple(str('module'), global('torch.FloatStorage'), str('0'), str('cpu'), int(4)), 'Q'), /persistent id/],
    ['a storage without a class', join(tuple(str('storage'), 'N', str('0'), str('cpu'), int(4)), 'Q'), /persistent id/],
    ['a persistent id that is text', join(str('0'), 'Q'), /persistent id/],
    ['a storage of -1 elements', x(tensorV2({ length: -1 })), /persistent id/],
    ['a storage of 2^60 elements', x(tensorV2({ length: big })), /persistent id/],
    ['a storage of 2^52 doubles', x(tensorV2({ storage: 'torch.DoubleStorage', length: 2n ** 52n })), /2\^53/],
    ['a storage with two lengths', dict(str('x'), tensorV2(), str('y'), tensorV2({ length: 3, size: [3] })), /torch.FloatStorage of 4/],
    ['a storage with two types', dict(str('x'), tensorV2(), str('y'), tensorV2({ storage: 'torch.IntStorage' })), /IntStorage/],
  ])('refuses %s', async (_, object, message) => {
    for (const contents of [torchZip(object, four), torchLegacy(object)]) {
      await octetError(open(contents), 'INVALID_TORCH_FILE', message)
    }
  })

  it('refuses storages that lie about their size', async () => {
    for (const length of [5, 1e9, 2 ** 31 - 1]) {
      const object = x(tensorV2({ length, size: [length] }))
      await octetError(open(torchZip(object)), 'INVALID_TORCH_FILE', /16 bytes/)
      await octetError(open(torchLegacy(object)), 'INVALID_TORCH_FILE', /elements in storage/)
      await octetError(open(torchLegacy(object, [['0', length, floats(1, 2, 3, 4)]])), 'INVALID_TORCH_FILE', /within/)
    }
    await octetError(open(torchLegacy(x(tensorV2()), [['0', 2n ** 64n - 1n, floats(1)]])), 'INVALID_TORCH_FILE', /elements in storage/)
    await octetError(open(torchLegacy(x(tensorV2()), [])), 'INVALID_TORCH_FILE', /without it/)
    await octetError(open(torchLegacy(x(tensorV2()), [['0', 4, Buffer.alloc(0)]])), 'INVALID_TORCH_FILE', /within/)
    await octetError(open(torchLegacy(x(tensorV2()), [['9', 4, floats(1, 2, 3, 4)]])), 'INVALID_TORCH_FILE', /"9"/)
    await octetError(open(torchLegacy(x(tensorV2()), [['0', 4, floats(1, 2, 3, 4)], ['0', 4, floats(1, 2, 3, 4)]])), 'INVALID_TORCH_FILE', /twice/)
    await octetError(open(torchZip(x(tensorV2()), { 0: floats(1, 2, 3, 4, 5) })), 'INVALID_TORCH_FILE', /16 bytes in storage "0", received 20 bytes/)
    await octetError(open(torchZip(x(tensorV2({ key: '7' })))), 'INVALID_TORCH_FILE', /"7"/)
    await octetError(open(torchZip(x(tensorV2({ key: '../data.pkl' })))), 'INVALID_TORCH_FILE', /without it/)
  })

  it('bounds what small opcodes can build', async () => {
    const n = 1_100_000
    const bombs: [string, RegExp][] = [
      ['('.repeat(n), /fit its size|marks/], [']'.repeat(n), /fit its size|stack/], ['}'.repeat(n), /fit its size|stack/], [')'.repeat(n), /fit its size|stack/],
      [`]${'(]e'.repeat(n)}`, /fit its size/], ['N'.repeat(n), /stack/], [`N${'\x85'.repeat(n)}`, /fit its size/], [`}${'NNs'.repeat(n)}`, /names as keys|storage keys/],
    ]
    for (const [bomb, message] of bombs) {
      await octetError(open(torchZip(bomb)), 'INVALID_TORCH_FILE', message)
    }
    await octetError(open(torchLegacy(bombs[1]![0])), 'INVALID_TORCH_FILE', bombs[1]![1])
    const puts = join('N', ...Array.from({ length: 65_536 }, (_, i) => bytes(0x72, i & 255, i >> 8, 0, 0)))
    await octetError(open(torchZip(puts)), 'INVALID_TORCH_FILE', /dictionary of tensors/)
    // A list of lists of lists, each twice the one before: 2^200 leaves if anyone walked it.
    const laughs = join(list('N'), 'q\x00', ...Array.from({ length: 200 }, (_, i) => join('](', bytes(0x68, i), bytes(0x68, i), 'e', bytes(0x71, i + 1))), '\x86'.repeat(100))
    await octetError(open(torchZip(laughs)), 'INVALID_TORCH_FILE', /dictionary of tensors/)
  }, 120_000)
})

describe('hostile archives', () => {
  const object = pickle(x(tensorV2()))
  const data: ZipSpec = { name: 'a/data/0', data: floats(1, 2, 3, 4) }
  const root: ZipSpec = { name: 'a/data.pkl', data: object }

  it.each<[string, Buffer, RegExp]>([
    ['an empty file', Buffer.alloc(0), /empty/],
    ['other bytes', Buffer.from('ustar and so on'), /other bytes/],
    ['a cut local header', Buffer.from('PK\x03\x04'), /zip archive/],
    ['no directory', join('PK\x03\x04', Buffer.alloc(100)), /zip archive/],
    ['an empty archive', join('PK\x03\x04', zip([])), /one data.pkl/],
    ['no pickle', zip([data]), /one data.pkl in the archive, received 0/],
    ['two pickles', zip([root, { ...root, name: 'b/data.pkl' }, data]), /received 2/],
    ['a pickle in a deeper folder', zip([{ ...root, name: 'a/b/data.pkl' }, data]), /received 0/],
    ['a pickle without a folder', zip([{ ...root, name: 'data.pkl' }, data]), /received 0/],
    ['a repeated entry', zip([root, data, data]), /twice/],
    ['a compressed pickle', zip([{ ...root, method: 8 }, data]), /compressed/],
    ['a compressed storage', zip([root, { ...data, method: 8 }]), /compressed/],
    ['an encrypted storage', zip([root, { ...data, flags: 0x801, size: 16 }]), /encrypted|mismatch/],
    ['an entry above the folder', zip([{ ...root, name: '../data.pkl' }, data]), /relative path/],
    ['an absolute entry', zip([{ ...root, name: '/data.pkl' }, data]), /absolute path/],
    ['a storage that is larger than the file', zip([root, { ...data, size: 2 ** 31 }]), /claim more/],
    ['entries that share bytes', zip([root, data, ...Array.from({ length: 40 }, (_, i) => ({ name: `a/bomb/${i}`, data: Buffer.alloc(0), size: 100, localOffset: 0 }))]), /claim more/],
    ['a storage off the end', zip([root, { ...data, localOffset: 0xfffffff0 }]), /EOF|zip archive/],
    ['a storage that is no entry', zip([root, { ...data, localOffset: 5 }]), /signature/],
    ['more entries than the directory', zip([root, data], 60_000), /zip archive/],
    ['a big-endian machine', zip([root, data, { name: 'a/byteorder', data: Buffer.from('big') }]), /little-endian/],
    ['a long byteorder', zip([root, data, { name: 'a/byteorder', data: Buffer.alloc(17) }]), /at most 16/],
    ['bytes after the pickle', zip([{ ...root, data: join(object, 'N') }, data]), /bytes after it/],
  ])('refuses %s', async (_, contents, message) => {
    await octetError(open(contents), 'INVALID_TORCH_FILE', message)
  })

  it('refuses a legacy file of another machine or number', async () => {
    const good = torchLegacy(x(tensorV2()))
    const magic = Buffer.from(good)
    magic[5]! ^= 1
    await octetError(open(magic), 'INVALID_TORCH_FILE', /magic/)
    const protocol = Buffer.from(good)
    protocol[18]! ^= 1
    await octetError(open(protocol), 'INVALID_TORCH_FILE', /1001/)
    const endian = Buffer.from(good)
    endian[endian.indexOf(0x88)] = 0x89
    await octetError(open(endian), 'INVALID_TORCH_FILE', /little-endian/)
  })

  it('notices a file that shrinks, an abort, and use after close', async () => {
    const path = temp.path('shrink.bin')
    await writeFile(path, torchZip(x(tensorV2({ length: 1000, size: [1000] })), { 0: Buffer.alloc(4000) }))
    const file = await openTorchBin(path)
    await truncate(path, file.tensors.get('x')!.offset + 100)
    await octetError(file.read('x'), 'FILE_CHANGED')
    await octetError(() => file.source('y'), 'INVALID_ARGUMENT', /"y"/)
    await file[Symbol.asyncDispose]()
    await octetError(file.readFloat32('x'), 'DISPOSED')
    const reason = new Error('enough')
    expect(await caught(openTorchBin(path, { signal: AbortSignal.abort(reason) }))).toBe(reason)
    await octetError(openTorchBin(temp.path('absent.bin')), 'FILE_NOT_FOUND')
  })
})

describe('mutated files give one error or a sound result', () => {
  const codes = ['INVALID_TORCH_FILE', 'UNSAFE_PICKLE'] as const
  const openAll = (contents: Buffer) => async (): Promise<void> => {
    const file = await open(contents)
    try {
      for (const [name, tensor] of file.tensors) {
        expect(tensor.offset + tensor.byteLength).toBeLessThanOrEqual(contents.length)
        if (tensor.byteLength < 1e6) await file.read(name)
      }
    } finally {
      await file.close()
    }
  }
  const edits = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 }), fc.constantFrom('set', 'cut', 'insert', 'copy')), { minLength: 1, maxLength: 6 })
  /** Most of a file is weights: edits aim at the metadata. */
  const mutate = (original: Buffer, spots: readonly [number, number][], changes: readonly (readonly [number, number, string])[]): Buffer => {
    let out = Buffer.from(original)
    for (const [where, value, kind] of changes) {
      const [from, to] = spots[where % spots.length]!
      const at = Math.min(from + (Math.floor(where / spots.length) % (to - from)), out.length)
      if (kind === 'set' && at < out.length) out[at] = value
      else if (kind === 'cut') out = Buffer.concat([out.subarray(0, at), out.subarray(at + value)])
      else if (kind === 'insert') out = Buffer.concat([out.subarray(0, at), bytes(value), out.subarray(at)])
      else out.copy(out, at, (at * 7 + value) % (at + 1), ((at * 7 + value) % (at + 1)) + (value % 16))
    }
    return out
  }

  it.each([
    ['zip', 'llama-bin-sharded/pytorch_model-00001-of-00002.bin'],
    ['legacy', 'llama-bin-legacy/pytorch_model.bin'],
  ])('%s', async (layout, form) => {
    const original = await readFile(fixture('variants', form))
    const spots: [number, number][] = layout === 'zip' ? [[0, 1700], [original.length - 1800, original.length]] : [[0, 3900], [137, 3900]]
    await fc.assert(fc.asyncProperty(edits, (changes) => failsOnlyWith(openAll(mutate(original, spots, changes)), codes)), { numRuns: fuzzCases() })
    await fc.assert(fc.asyncProperty(fc.nat({ max: original.length }), (length) => failsOnlyWith(openAll(original.subarray(0, length)), codes)), { numRuns: fuzzCases(100) })
  }, FUZZ_TIMEOUT)

  it('random opcodes', async () => {
    const opcodes = fc.constantFrom<Piece>('(', ')', '.', 'N', '\x88', '\x89', ']', '}', 'a', 'e', 's', 'u', 't', '\x85', '\x86', '\x87', 'R', 'b', 'Q', int(0), int(1), int(4), int(-1), int(2n ** 40n), str('storage'), str('0'), str('cpu'), str('x'),
      'q\x00', 'h\x00', 'q\x01', 'h\x01', 'r\x02\x00\x00\x00', 'j\x02\x00\x00\x00', 'G\x7f\xf0\x00\x00\x00\x00\x00\x00', global('torch.FloatStorage'), global('collections.OrderedDict'), global('torch._utils._rebuild_tensor_v2'), global('torch._utils._rebuild_parameter'),
      global('torch.float32'), global('os.system'), storage(), tensorV2(), orderedDict(), tuple(int(4)), x(tensorV2()))
    await fc.assert(fc.asyncProperty(fc.array(opcodes, { maxLength: 40 }), fc.boolean(), (ops, legacy) => {
      const object = join(...ops)
      return failsOnlyWith(openAll(legacy ? torchLegacy(object) : torchZip(object)), codes)
    }), { numRuns: fuzzCases(600) })
  }, FUZZ_TIMEOUT)
})
