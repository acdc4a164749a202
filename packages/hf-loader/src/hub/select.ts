/** Which files of a repository a model needs. */
import { OctetError } from '@octet-llm/core'
import { isPlainPath } from './names.js'
import type { RepositoryFile } from './repository.js'

/**
 * What makes a checkpoint, in the order of preference that loading has: safetensors before PyTorch's .bin, one file
 * before shards. An adapter stands beside a model or alone.
 */
export const WEIGHTS: readonly { readonly config: string; readonly weights: string }[] = [
  { config: 'config.json', weights: 'model.safetensors' },
  { config: 'config.json', weights: 'model.safetensors.index.json' },
  { config: 'config.json', weights: 'pytorch_model.bin' },
  { config: 'config.json', weights: 'pytorch_model.bin.index.json' },
  { config: 'adapter_config.json', weights: 'adapter_model.safetensors' },
  { config: 'adapter_config.json', weights: 'adapter_model.bin' },
]

/** Configs, tokenizers and templates are small; other JSON of this size is not for a model. */
const MAX_METADATA_BYTES = 256 * 1024 * 1024
const NOT_NEEDED = ['trainer_state.json', 'all_results.json', 'train_results.json', 'eval_results.json']

export function isShardIndex(name: string): boolean {
  return name.endsWith('.index.json')
}

/**
 * JSON and Jinja files beside the weights (config, generation config, tokenizer, chat template), smallest first, and the
 * preferred weights: one file, or an index whose shards are to be read from it.
 *
 * @returns `weights: null` where the repository has none that Octet reads.
 */
export function selectFiles(files: readonly RepositoryFile[]): { metadata: RepositoryFile[]; weights: RepositoryFile | null; adapter: RepositoryFile | null } {
  const byName = new Map(files.map((file) => [file.name, file]))
  const preferred = (config: string): RepositoryFile | null => {
    for (const choice of WEIGHTS) {
      const found = choice.config === config && byName.has(config) ? byName.get(choice.weights) : undefined
      if (found !== undefined) return found
    }
    return null
  }
  const weights = preferred('config.json')
  const adapter = preferred('adapter_config.json')
  const metadata = files.filter(({ name, size }) => {
    const wanted = /^[^/]+\.(json|jinja)$/.test(name) && !isShardIndex(name) && !NOT_NEEDED.includes(name)
    return wanted && size <= MAX_METADATA_BYTES
  })
  return { metadata: metadata.sort((a, b) => a.size - b.size), weights, adapter }
}

/**
 * The distinct shard names of an index file's text.
 *
 * @throws OctetError `INVALID_INDEX` when it is not JSON, has no weight map, or names a path that leaves the folder.
 */
export function readShardNames(text: string): string[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw invalid('JSON', error instanceof Error ? error.message : 'something else', error)
  }
  const map = typeof value === 'object' && value !== null ? (value as { weight_map?: unknown }).weight_map : undefined
  if (typeof map !== 'object' || map === null || Array.isArray(map)) throw invalid('a weight_map', 'none')
  const names = new Set<string>()
  for (const name of Object.values(map)) {
    if (typeof name !== 'string' || !isPlainPath(name)) throw invalid('relative file names without ..', JSON.stringify(name) ?? 'nothing')
    names.add(name)
  }
  if (names.size === 0) throw invalid('at least one shard', 'none')
  return [...names].sort()
}

/** @throws OctetError `INVALID_INDEX` when the index names a shard that the repository lacks. */
export function findShards(files: readonly RepositoryFile[], names: readonly string[]): RepositoryFile[] {
  const byName = new Map(files.map((file) => [file.name, file]))
  return names.map((name) => {
    const file = byName.get(name)
    if (file === undefined) throw invalid('shards of the repository', `${JSON.stringify(name)}, which it lacks`)
    return file
  })
}

function invalid(expected: string, received: string, cause?: unknown): OctetError {
  return new OctetError('INVALID_INDEX', {
    op: 'pull',
    argument: 'weight index',
    expected,
    received,
    hint: 'use another repository or revision',
    ...(cause === undefined ? {} : { cause }),
  })
}
