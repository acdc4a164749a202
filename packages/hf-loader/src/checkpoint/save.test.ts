import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, readlink, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { OctetError } from '@octet-llm/core'
import { describe, expect, it } from 'vitest'
import { readConfig } from '../config/index.js'
import { type TensorEntry } from '../safetensors/index.js'
import { caught, fixture, namesIn, octetError, useTempFolder } from '../testing/support.test-helper.js'
import { openCheckpoint, saveCheckpoint } from './index.js'
import { entry, slotsOf } from './model.test-helper.js'

const temp = useTempFolder()
let folders = 0
const fresh = (): string => temp.path(`save-${folders++}`)
const bytes = (name: string, count: number): TensorEntry => ({ name, dtype: 'u8', shape: [count], data: new Uint8Array(count).fill(count) })

describe('saveCheckpoint', () => {
  it.each(['fairy-gemma', 'fairy-llama', 'variants/llama-fp8-block128', 'variants/llama-bias-tied'])('writes %s as transformers did', async (name) => {
    const checkpoint = await openCheckpoint(fixture(name))
    const original = await readConfig(fixture(name))
    const dir = fresh()
    const limit = checkpoint.shards.length > 1 ? '3MB' : '5GB'
    // The order of a state_dict, which decides what shares a file; inside a file the format has its own.
    const names = limit === '3MB' ? slotsOf(original).map(({ name }) => name) : [...checkpoint.sources.keys()]
    const entries = names.map((name): TensorEntry => ({ ...checkpoint.sources.get(name)!, data: () => checkpoint.chunks(name) }))
    const progress: number[] = []
    const files = await saveCheckpoint(dir, entries, { maxShardSize: limit, config: original.raw, onProgress: ({ doneBytes, totalBytes }) => progress.push(doneBytes / totalBytes) })
    await checkpoint.close()
    expect(files).toEqual(checkpoint.shards.map(({ path }) => path.split('/').at(-1)))
    expect(progress.at(-1)).toBe(1)
    for (const file of files) expect(Buffer.compare(await readFile(join(dir, file)), await readFile(fixture(name, file))), file).toBe(0)
    expect(await readConfig(dir)).toEqual(original)
    expect(await namesIn(dir)).toEqual(['config.json', ...files, ...(files.length > 1 ? ['model.safetensors.index.json'] : [])])
    if (files.length > 1) {
      const index = async (folder: string): Promise<{ weight_map: object }> => JSON.parse(await readFile(join(folder, 'model.safetensors.index.json'), 'utf8')) as { weight_map: object }
      expect((await index(dir)).weight_map).toEqual((await index(fixture(name))).weight_map)
    }
  })

  it('fills shards greedily, in the given order', async () => {
    const split = async (sizes: number[], maxShardSize: number | string): Promise<string[][]> => {
      const dir = fresh()
      await saveCheckpoint(dir, sizes.map((size, i) => bytes(`t${i}`, size)), { maxShardSize })
      const checkpoint = await openCheckpoint(dir)
      await checkpoint.close()
      return checkpoint.shards.map(({ names }) => [...names])
    }
    expect(await split([4, 4, 4], 8)).toEqual([['t0', 't1'], ['t2']])
    expect(await split([4, 5, 4], 8)).toEqual([['t0'], ['t1'], ['t2']])
    expect(await split([4, 4], 8)).toEqual([['t0', 't1']])
    expect(await split([1, 20, 1, 1], 8)).toEqual([['t0'], ['t1'], ['t2', 't3']])
    expect(await split([20], 8)).toEqual([['t0']])
    expect(await split([500, 500, 1], '1KB')).toEqual([['t0', 't1'], ['t2']])
    expect(await split([500, 500, 24, 1], '1 KiB')).toEqual([['t0', 't1', 't2'], ['t3']])
  })

  it('replaces an older checkpoint whole, of either form', async () => {
    const dir = fresh()
    const three = [bytes('a', 4), bytes('b', 4), bytes('c', 4)]
    await saveCheckpoint(dir, three, { maxShardSize: 4, config: { v: 1 }, generationConfig: { eos_token_id: 1 } })
    await writeFile(join(dir, 'tokenizer.json'), '{}')
    expect(await namesIn(dir)).toEqual(['config.json', 'generation_config.json', ...[1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`), 'model.safetensors.index.json', 'tokenizer.json'])
    await saveCheckpoint(dir, three.slice(0, 2), { maxShardSize: 4, config: { v: 2 } })
    expect(await namesIn(dir)).toEqual(['config.json', 'generation_config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json', 'tokenizer.json'])
    await saveCheckpoint(dir, three, { metadata: { format: 'pt', by: 'x' } })
    expect(await namesIn(dir)).toEqual(['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json'])
    const checkpoint = await openCheckpoint(dir)
    expect([...checkpoint.sources.keys()]).toEqual(['a', 'b', 'c'])
    await checkpoint.close()
    await saveCheckpoint(dir, three, { maxShardSize: 8 })
    expect(await namesIn(dir)).not.toContain('model.safetensors')
  })

  it('clears away what a killed save left behind, and nothing that is worked on', async () => {
    const dir = fresh()
    const [dead, unmarked, other] = ['.octet-save-0123456789ab', '.octet-save-ba9876543210', '.octet-save-x']
    for (const name of [dead, unmarked, other]) await mkdir(join(dir, name, 'files'), { recursive: true })
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
    await writeFile(join(dir, dead, 'owner'), JSON.stringify({ pid: 2 ** 30, boot, namespace: await readlink('/proc/self/ns/pid'), started: '1', key: 'k' }))
    let during: string[] = []
    const slow: TensorEntry = { name: 'b', dtype: 'u8', shape: [1], data: async function* () {
      await saveCheckpoint(dir, [bytes('a', 1)])
      during = await namesIn(dir)
      yield new Uint8Array(1)
    } }
    await saveCheckpoint(dir, [slow])
    expect(during).toHaveLength(4)
    expect(during).toEqual(expect.arrayContaining([unmarked, other, 'model.safetensors']))
    expect(await namesIn(dir)).toEqual([unmarked, other, 'model.safetensors'])
  })

  it('leaves the old checkpoint and nothing else when it fails', async () => {
    const dir = fresh()
    await saveCheckpoint(dir, [entry('a', [1], [7])], { config: { v: 1 } })
    const boom = new Error('boom')
    const failing: TensorEntry = { name: 'b', dtype: 'u8', shape: [4], data: () => { throw boom } }
    expect(await caught(saveCheckpoint(dir, [bytes('a', 4), failing], { maxShardSize: 4, config: { v: 2 } }))).toBe(boom)
    const controller = new AbortController()
    const aborting = saveCheckpoint(dir, [bytes('a', 4), bytes('b', 4)], { maxShardSize: 4, config: { v: 2 }, signal: controller.signal, onProgress: () => controller.abort(boom) })
    expect(await caught(aborting)).toBe(boom)
    await octetError(saveCheckpoint(dir, [{ ...bytes('a', 4), shape: [5] }], { config: { v: 2 } }), 'INVALID_ARGUMENT', /5 bytes/)
    expect(await namesIn(dir)).toEqual(['config.json', 'model.safetensors'])
    expect(JSON.parse(await readFile(join(dir, 'config.json'), 'utf8'))).toEqual({ v: 1 })
    const checkpoint = await openCheckpoint(dir)
    expect([...(await checkpoint.readFloat32('a'))]).toEqual([7])
    await checkpoint.close()
  })

  it('opens as nothing when it stops half-way between the old checkpoint and the new', async () => {
    for (const oldSize of ['5GB', 4]) {
      const dir = fresh()
      const two = [bytes('a', 4), bytes('b', 4)]
      await saveCheckpoint(dir, two, { maxShardSize: oldSize, config: { v: 1 } })
      // A folder in the way of the last weights: the config is new by then, and the first shard.
      const last = 'model-00002-of-00002.safetensors'
      await rm(join(dir, last), { force: true })
      await mkdir(join(dir, last, 'x'), { recursive: true })
      const error = await caught(saveCheckpoint(dir, two, { maxShardSize: 4, config: { v: 2 } }))
      expect((error as OctetError).code).toBe('FILE_WRITE_FAILED')
      await rm(join(dir, last), { recursive: true, force: true })
      await octetError(openCheckpoint(dir), 'FILE_NOT_FOUND', /none of them/)
      expect((await namesIn(dir)).filter((name) => name.startsWith('.'))).toEqual([])
    }
  })

  it('refuses what makes no checkpoint', async () => {
    const dir = fresh()
    await octetError(saveCheckpoint(dir, []), 'INVALID_ARGUMENT', /at least one/)
    await octetError(saveCheckpoint(dir, [bytes('a', 1), bytes('a', 1)], { maxShardSize: 1 }), 'INVALID_ARGUMENT', /twice/)
    for (const maxShardSize of [0, -1, 1.5, NaN, Infinity, '', '5', 'GB', '5XB', '-5GB', '0B', '5 G B']) await octetError(saveCheckpoint(dir, [bytes('a', 1)], { maxShardSize }), 'INVALID_ARGUMENT', /maxShardSize/)
    await octetError(saveCheckpoint(dir, Array.from({ length: 100_000 }, (_, i) => bytes(`t${i}`, 1)), { maxShardSize: 1 }), 'INVALID_ARGUMENT', /99999/)
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, 'file'), '')
    await octetError(saveCheckpoint(join(dir, 'file'), [bytes('a', 1)]), 'FILE_WRITE_FAILED')
    await octetError(saveCheckpoint(join(dir, 'file', 'sub'), [bytes('a', 1)]), 'FILE_WRITE_FAILED')
    await writeFile(join(dir, 'pytorch_model-00001-of-00002.bin'), '')
    await octetError(saveCheckpoint(dir, [bytes('a', 1)]), 'INVALID_ARGUMENT', /PyTorch/)
    const reason = new Error('enough')
    expect(await caught(saveCheckpoint(dir, [bytes('a', 1)], { signal: AbortSignal.abort(reason) }))).toBe(reason)
  })

  it('killed at any moment, leaves the old checkpoint, the new one, or none', async () => {
    const dir = fresh()
    const script = fileURLToPath(new URL('../testing/save-loop.test-child.mjs', import.meta.url))
    const seen = { whole: 0, none: 0 }
    for (let round = 0; round < 12; round++) {
      const child = fork(script, [dir], { stdio: 'ignore' })
      await once(child, 'message')
      await new Promise((resolve) => setTimeout(resolve, (round * 37) % 120))
      child.kill('SIGKILL')
      await once(child, 'exit')
      const error = await caught(checkWhole(dir))
      if (error === undefined) seen.whole++
      else {
        await octetError(Promise.reject(error as Error), 'FILE_NOT_FOUND', /none of them/)
        seen.none++
      }
    }
    expect(seen.whole + seen.none).toBe(12)
    expect(seen.whole).toBeGreaterThan(0)
  }, 120_000)
})

/** Every tensor and the config are of one save. */
async function checkWhole(dir: string): Promise<void> {
  const checkpoint = await openCheckpoint(dir)
  try {
    const { version } = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')) as { version: number }
    expect(checkpoint.sources.size).toBe(6)
    for (const name of checkpoint.sources.keys()) expect(new Set(await checkpoint.readFloat32(name))).toEqual(new Set([version]))
  } finally {
    await checkpoint.close()
  }
}
