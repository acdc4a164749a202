import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, truncate, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { bytes, dict, floats, global, join, orderedDict, pickle, storage, str, tensorV2, torchLegacy, torchZip, zip } from '../torch-bin/build.test-helper.js'
import { fixture, useTempFolder } from './support.test-helper.js'

/** What opening a file may cost at its peak: the bound of the package. */
const FREE_BYTES = 64 * 2 ** 20
const BYTES_PER_METADATA = 20

const temp = useTempFolder()
let files = 0

/** Runs in a child process of the built package: peak memory of a process never falls. */
async function open(opener: string, path: string): Promise<{ outcome: string; peakBytes: number }> {
  const child = fork(fileURLToPath(new URL('open-file.test-child.mjs', import.meta.url)), [opener, path])
  const [message] = (await once(child, 'message')) as [{ outcome: string; peakBytes: number }]
  await once(child, 'exit')
  return message
}

async function put(name: string, contents: Buffer | string, length?: number): Promise<string> {
  const path = temp.path(`case-${files++}`, name)
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, contents)
  if (length !== undefined) await truncate(path, length)
  return path
}

async function expectBounded(opener: string, path: string, metadataBytes: number, outcome: string): Promise<void> {
  const result = await open(opener, path)
  expect(result.outcome).toBe(outcome)
  expect(result.peakBytes).toBeLessThanOrEqual(FREE_BYTES + BYTES_PER_METADATA * metadataBytes)
}

function header(json: string, declared = Buffer.byteLength(json)): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(declared))
  return Buffer.concat([length, Buffer.from(json)])
}

/** Text of about `size` bytes. */
const fill = (piece: (i: number) => string, size: number): string => {
  const pieces: string[] = []
  for (let length = 0; length < size; length += pieces.at(-1)!.length + 1) pieces.push(piece(pieces.length))
  return pieces.join(',')
}

const many = (count: number, piece: (i: number) => Buffer): Buffer => Buffer.concat(Array.from({ length: Math.floor(count) }, (_, i) => piece(i)))

const MB = 2 ** 20

describe('peak memory of opening', () => {
  it('a model is small', async () => {
    await expectBounded('openSafetensors', fixture('variants/llama-rope3/model.safetensors'), 3096, 'opened')
    await expectBounded('openTorchBin', fixture('variants/llama-bin-single/pytorch_model.bin'), 6000, 'opened')
    await expectBounded('openCheckpoint', fixture('fairy-gemma'), 12_000, 'opened')
  })

  it.each<[string, string, number?]>([
    ['a length of 100 MB in a small file', '{}', 100_000_000],
    ['tiny tensors', `{${fill((i) => `"${i}":{"dtype":"U8","shape":[],"data_offsets":[${i},${i + 1}]}`, 8 * MB)}}`],
    ['empty tensors out of order', `{${fill((i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, 8 * MB)},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`],
    ['empty tensors', `{${fill((i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, 8 * MB)}}`],
    ['one shape of millions of axes', `{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[${fill(() => '1', 4 * MB)}]}}`],
    ['one name of megabytes', `{"${'n'.repeat(8 * MB)}":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}`],
    ['an escaped name of megabytes', `{"${'\\u0041'.repeat(MB)}":1}`],
    ['lists in lists', `{"a":{"x":${'['.repeat(4 * MB)}`],
    ['objects without end', `{"a":{"x":[${fill(() => '{}', 4 * MB)}]}}`],
    ['metadata of small strings', `{"__metadata__":{${fill((i) => `"${i}":""`, 6 * MB)}},"a":1}`],
    ['a name again and again', `{${fill(() => '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', 8 * MB)}}`],
  ])('a safetensors file with %s is bounded', async (name, json, declared) => {
    const path = await put('x.safetensors', header(json, declared))
    await expectBounded('openSafetensors', path, json.length, name === 'empty tensors' ? 'opened' : 'INVALID_SAFETENSORS')
  })

  it('a safetensors file that claims terabytes is bounded', async () => {
    const json = '{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    await expectBounded('openSafetensors', await put('x.safetensors', header(json)), json.length, 'INVALID_SAFETENSORS')
    await expectBounded('openSafetensors', await put('x.safetensors', header(json), 8 + json.length + 4e12), json.length, 'opened')
    await expectBounded('openSafetensors', await put('x.safetensors', header('{}', 90_000_000), 100_000_000), 90_000_000, 'INVALID_SAFETENSORS')
  })

  const n = 3 * MB
  it.each<[string, Buffer, string?]>([
    ['lists', join(']'.repeat(n))],
    ['dictionaries with an item', join('}q\x00', '(', '}NNs'.repeat(n / 4))],
    ['lists with an item', join('](', ']Na'.repeat(n / 3))],
    ['tuples in tuples', join('N', '\x85'.repeat(n))],
    ['tuples', join('(', 'NN\x86'.repeat(n / 3))],
    ['marks', join('('.repeat(n))],
    ['memo entries', join('N', many(n / 5, (i) => bytes(0x72, i & 255, (i >> 8) & 255, i >> 16, 0)))],
    ['bigints', join('(', many(n / 12, () => bytes(0x8a, 10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1)))],
    ['ordered dictionaries', join('(', orderedDict(), 'q\x00', global('collections.OrderedDict'), 'q\x01', 'h\x01)R'.repeat(n / 4))],
    ['storages of their own', join('(', global('torch.ByteStorage'), 'q\x00', str('storage'), 'q\x01', str('cpu'), 'q\x02', many(n / 30, (i) => join('(h\x01h\x00', str(String(i)), 'h\x02', 'K\x01', 'tQ')))],
    ['tensors of one storage', join('(', storage(), 'q\x00', many(n / 100, () => tensorV2()))],
    ['a storage of terabytes', dict(str('x'), tensorV2({ length: 10n ** 12n, size: [10n ** 12n] }))],
  ])('a pickle of %s is bounded', async (_, object) => {
    await expectBounded('openTorchBin', await put('x.bin', torchZip(object)), object.length, 'INVALID_TORCH_FILE')
  })

  it('a legacy file, whose pickle is read through a growing window, is bounded', async () => {
    for (const object of [join('(', 'NN\x86'.repeat(n / 3)), dict(str('x'), tensorV2({ length: 10n ** 12n, size: [10n ** 12n] }))]) {
      await expectBounded('openTorchBin', await put('x.bin', torchLegacy(object)), object.length, 'INVALID_TORCH_FILE')
    }
  })

  it('a zip directory of many entries, and one that claims more, are bounded', async () => {
    const entries = Array.from({ length: 60_000 }, (_, i) => ({ name: `a/data/${i}`, data: Buffer.alloc(0) }))
    const many = zip([{ name: 'a/data.pkl', data: pickle(dict(str('x'), tensorV2({ key: 'none' }))) }, ...entries])
    await expectBounded('openTorchBin', await put('x.bin', many), many.length, 'INVALID_TORCH_FILE')
    const large = zip([{ name: 'a/data.pkl', data: Buffer.alloc(65 * MB) }, { name: 'a/data/0', data: floats(1) }])
    await expectBounded('openTorchBin', await put('x.bin', large), 1000, 'INVALID_TORCH_FILE')
  })

  it.each<[string, string]>([
    ['objects', `{"model_type":"llama","x":[${fill(() => '{}', 0.9 * MB)}]}`],
    ['lists', `{"model_type":"llama","x":[${fill(() => '[]', 0.9 * MB)}]}`],
    ['numbers', `{"model_type":"llama","x":[${fill(() => '1.5', 0.9 * MB)}]}`],
    ['members', `{"model_type":"llama",${fill((i) => `"${i.toString(36)}":1`, 0.9 * MB)}}`],
    ['one string', `{"model_type":"llama","x":"${'x'.repeat(0.9 * MB)}"}`],
    ['nested objects', `{"model_type":"llama","x":[${fill(() => '{"a":{"b":{}}}', 0.9 * MB)}]}`],
  ])('a config of %s is bounded', async (_, json) => {
    const path = await put('config.json', json)
    await expectBounded('readConfig', dirname(path), json.length, 'opened')
  })

  it('an index of many tensors, and one too large, are bounded', async () => {
    const json = `{"weight_map":{${fill((i) => `"${i}":"m"`, 8 * MB)}}}`
    await expectBounded('openCheckpoint', dirname(await put('model.safetensors.index.json', json)), json.length, 'INVALID_INDEX')
    const files = `{"weight_map":{${fill((i) => `"${i}":"${i}"`, 8 * MB)}}}`
    await expectBounded('openCheckpoint', dirname(await put('model.safetensors.index.json', files)), files.length, 'INVALID_INDEX')
    await expectBounded('openCheckpoint', dirname(await put('model.safetensors.index.json', '', 10 * 2 ** 30)), 0, 'INVALID_JSON')
    await expectBounded('readConfig', dirname(await put('config.json', '', 10 * 2 ** 30)), 0, 'INVALID_JSON')
    await expectBounded('openLoraAdapter', dirname(await put('adapter_config.json', '', 10 * 2 ** 30)), 0, 'INVALID_JSON')
  })
}, 300_000)
