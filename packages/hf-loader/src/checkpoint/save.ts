import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { withAside } from '../io/aside.js'
import { attempt, syncFolder, writeFileAtomic } from '../io/atomic-write.js'
import type { JsonObject } from '../io/json-file.js'
import { quoteName } from '../io/names.js'
import { byteLengthOf, writeSafetensors, type TensorEntry } from '../safetensors/write.js'

const OP = 'saveCheckpoint'
const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
/** Where a save in progress keeps its files. */
const ASIDE = '.octet-save-'
const SHARD = /^model-\d{5}-of-\d{5}\.safetensors$/

export interface SaveOptions {
  /** Most bytes of tensors in one file: a number, or a text such as `5GB` (10^9) or `5GiB` (2^30). Default `5GB`. */
  readonly maxShardSize?: number | string
  /** Of every file. Default `{ format: 'pt' }`, which transformers asks for. */
  readonly metadata?: Readonly<Record<string, string>>
  /** Written as config.json. */
  readonly config?: JsonObject
  /** Written as generation_config.json. */
  readonly generationConfig?: JsonObject
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: (progress: { readonly doneBytes: number; readonly totalBytes: number }) => void
}

/**
 * Writes the weights of a checkpoint as transformers does: tensors in the given order fill a file up to `maxShardSize`,
 * then the next; one file is `model.safetensors`, several are `model-00001-of-0000N.safetensors` with an index. A tied
 * head is left out by not naming it.
 *
 * Everything is written aside first. The name by which a folder opens as a checkpoint comes last, and an old one goes
 * before anything else is replaced: killed at any moment, the folder holds the old checkpoint, the new one, or none.
 * @returns names of the weight files, in order.
 * @throws OctetError `INVALID_ARGUMENT` (names, shapes, data; a folder of PyTorch weights), `FILE_WRITE_FAILED`.
 * @throws the signal's reason, or what a data producer throws, unchanged.
 */
export async function saveCheckpoint(dir: string, tensors: Iterable<TensorEntry>, options: SaveOptions = {}): Promise<string[]> {
  options.signal?.throwIfAborted()
  const folder = resolve(dir)
  const shards = splitIntoShards(tensors, parseShardSize(options.maxShardSize ?? '5GB'))
  await attempt(OP, folder, () => mkdir(folder, { recursive: true }))
  await refuseTorchWeights(folder)
  return withAside(OP, folder, ASIDE, async (aside) => {
    const names = await writeAside(aside, shards, options)
    await replace(folder, aside, names)
    return names.filter((name) => name.endsWith('.safetensors'))
  })
}

/** Writes all files into `aside`; returns their names, the one that makes a checkpoint of them last. */
async function writeAside(aside: string, shards: readonly TensorEntry[][], options: SaveOptions): Promise<string[]> {
  const { metadata = { format: 'pt' }, signal, onProgress } = options
  const totalBytes = shards.flat().reduce((sum, entry) => sum + byteLengthOf(entry), 0)
  const names: string[] = []
  const put = async (name: string, value: JsonObject | undefined): Promise<void> => {
    if (value === undefined) return
    await writeFileAtomic(join(aside, name), OP, (writer) => writer.write(Buffer.from(`${JSON.stringify(value, null, 2)}\n`)))
    names.push(name)
  }
  await put('config.json', options.config)
  await put('generation_config.json', options.generationConfig)
  const weightMap: [string, string][] = []
  let before = 0
  for (const [i, shard] of shards.entries()) {
    const name = shards.length === 1 ? SINGLE : shardName(i + 1, shards.length)
    await writeSafetensors(join(aside, name), shard, {
      metadata,
      signal,
      onProgress: (written) => onProgress?.({ doneBytes: before + written, totalBytes }),
    })
    for (const entry of shard) weightMap.push([entry.name, name])
    before += shard.reduce((sum, entry) => sum + byteLengthOf(entry), 0)
    names.push(name)
  }
  if (shards.length > 1) {
    const sorted = weightMap.sort(([a], [b]) => (a < b ? -1 : 1))
    await put(INDEX, { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(sorted) })
  }
  return names
}

/** Brings the new files to their places in an order in which no moment shows a mixture. */
async function replace(folder: string, aside: string, names: readonly string[]): Promise<void> {
  for (const name of [SINGLE, INDEX]) await attempt(OP, join(folder, name), () => rm(join(folder, name), { force: true }))
  await syncFolder(folder)
  for (const name of names.slice(0, -1)) await attempt(OP, join(folder, name), () => rename(join(aside, name), join(folder, name)))
  await syncFolder(folder)
  const last = names.at(-1)!
  await attempt(OP, join(folder, last), () => rename(join(aside, last), join(folder, last)))
  await syncFolder(folder)
  // Shards of an older save.
  for (const name of await readdir(folder)) if (SHARD.test(name) && !names.includes(name)) await rm(join(folder, name), { force: true })
}

/** transformers reads safetensors first: beside them, PyTorch weights would be an old model that nobody sees any more. */
async function refuseTorchWeights(folder: string): Promise<void> {
  const found = (await readdir(folder)).find((name) => /^pytorch_model.*\.bin(\.index\.json)?$/.test(name))
  if (found === undefined) return
  throw new OctetError('INVALID_ARGUMENT', {
    op: OP,
    argument: 'dir',
    expected: 'a folder without PyTorch weights',
    received: join(folder, found),
    hint: 'save into another folder',
  })
}

/** Greedy: a tensor that would overfill the file opens the next; one larger than the limit has a file of its own. */
function splitIntoShards(tensors: Iterable<TensorEntry>, limit: number): TensorEntry[][] {
  const shards: TensorEntry[][] = []
  const seen = new Set<string>()
  let room = -1
  for (const entry of tensors) {
    if (seen.has(entry.name)) throw badArgument('tensors', 'distinct names', `${quoteName(entry.name)} twice`)
    seen.add(entry.name)
    const size = byteLengthOf(entry)
    if (size > room || shards.length === 0) {
      shards.push([])
      room = limit
    }
    shards.at(-1)!.push(entry)
    room -= size
  }
  if (shards.length === 0) throw badArgument('tensors', 'at least one tensor', 'none')
  if (shards.length > 99_999) throw badArgument('maxShardSize', 'a size that gives at most 99999 files', `${shards.length} files`)
  return shards
}

const UNITS: Readonly<Record<string, number>> = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30, TIB: 2 ** 40 }

/** Bytes of a `maxShardSize`. @throws OctetError `INVALID_ARGUMENT` */
export function parseShardSize(size: number | string): number {
  const match = typeof size === 'string' ? /^(\d+(?:\.\d+)?)\s*([KMGT]?I?B)$/i.exec(size) : null
  const unit = match === null ? undefined : UNITS[match[2]!.toUpperCase()]
  const bytes = typeof size === 'number' ? size : Math.floor(Number(match?.[1]) * (unit ?? NaN))
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  throw badArgument('maxShardSize', 'a number of bytes or a text such as 5GB', typeof size === 'string' ? quoteName(size) : String(size))
}

function shardName(index: number, count: number): string {
  return `model-${String(index).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.safetensors`
}

function badArgument(argument: string, expected: string, received: string): OctetError {
  return new OctetError('INVALID_ARGUMENT', { op: OP, argument, expected, received })
}
