import { realpath } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join, sep } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { invalidJson, readSmallFile } from '../io/json-file.js'
import { JsonReader, JsonSyntaxError } from '../io/json-reader.js'
import { listSome, quoteName } from '../io/names.js'

/** 405B in 191 shards has an index of 100 KB; the largest mixtures of experts come to 10 MB. */
const MAX_INDEX_BYTES = 64 * 2 ** 20
const MAX_SHARDS = 10_000

/** Tensor name → file name, and the files in order of their names. */
export interface CheckpointIndex {
  readonly weightMap: ReadonlyMap<string, string>
  readonly files: readonly string[]
}

/**
 * Reads `*.index.json` and checks where it leads: every file is named relative to the folder, exists, and lies in it
 * (behind symbolic links too; a folder of the hub's cache keeps its files in `blobs`).
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_JSON`, `INVALID_INDEX`.
 */
export async function readIndex(path: string, op: string, signal?: AbortSignal): Promise<CheckpointIndex> {
  const bytes = await readSmallFile(path, MAX_INDEX_BYTES, op, signal)
  let weightMap: Map<string, string>
  try {
    weightMap = parseIndex(bytes, () => invalidIndex(op, path, `at most ${MAX_SHARDS} files`, 'more'))
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error
    throw invalidJson(op, path, 'a checkpoint index', error.message)
  }
  if (weightMap.size === 0) throw invalidIndex(op, path, 'a weight_map with tensors', 'none')
  const files = [...new Set(weightMap.values())].sort()
  const strays = files.filter((file) => !isPlainRelative(file))
  if (strays.length > 0) throw invalidIndex(op, path, 'files inside the folder, by relative names without ".."', listSome(strays.map(quoteName)))
  await checkPlaces(path, files, op)
  return { weightMap, files }
}

export function invalidIndex(op: string, path: string, expected: string, received: string): OctetError {
  return new OctetError('INVALID_INDEX', { op, argument: path, expected, received, hint: 'fetch the checkpoint again, all its files' })
}

/** Only `weight_map` is read: nothing else of an index is needed, and its `total_size` is often wrong. */
function parseIndex(bytes: Buffer, tooMany: () => OctetError): Map<string, string> {
  const reader = new JsonReader(bytes)
  const weightMap = new Map<string, string>()
  // One string a file, however many tensors name it.
  const files = new Map<string, string>()
  reader.readObject((key) => {
    if (key !== 'weight_map') return reader.skipValue()
    reader.readObject((name) => {
      const file = reader.readString()
      if (!files.has(file)) files.set(file, file)
      if (files.size > MAX_SHARDS) throw tooMany()
      weightMap.set(name, files.get(file)!)
    })
  })
  reader.end()
  return weightMap
}

function isPlainRelative(file: string): boolean {
  if (file === '' || file.length > 4096 || file.includes('\0') || file.includes('\\') || isAbsolute(file) || /^[A-Za-z]:/.test(file)) return false
  return file.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
}

async function checkPlaces(path: string, files: readonly string[], op: string): Promise<void> {
  const folder = dirname(path)
  const roots = rootsOf(await realpath(folder))
  const missing: string[] = []
  const outside: string[] = []
  for (const file of files) {
    const target = await realpath(join(folder, file)).catch(() => null)
    if (target === null) missing.push(quoteName(file))
    else if (!roots.some((root) => target.startsWith(root + sep))) outside.push(quoteName(file))
  }
  if (missing.length > 0) throw invalidIndex(op, path, 'files that exist', `${missing.length} of ${files.length} missing: ${listSome(missing)}`)
  if (outside.length > 0) throw invalidIndex(op, path, 'files inside the folder', `links that lead out of it: ${listSome(outside)}`)
}

/** The folder, and for `…/snapshots/<revision>/…` of the hub's cache the `blobs` that its links lead to. */
function rootsOf(folder: string): string[] {
  for (let at = folder; dirname(at) !== at; at = dirname(at)) {
    if (basename(dirname(at)) === 'snapshots') return [folder, join(dirname(dirname(at)), 'blobs')]
  }
  return [folder]
}
