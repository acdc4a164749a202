import { readFile, statfs } from 'node:fs/promises'
import { OctetError } from '@octet-llm/core'
import { RepositoryCache } from './cache.js'
import { downloadBlob, hasBlob } from './download.js'
import { readHubEnvironment, type HubOverrides } from './environment.js'
import { hubFailed, type HubClient } from './http.js'
import { checkHubId, checkRevision } from './names.js'
import { readRepository, type Repository, type RepositoryFile } from './repository.js'
import { findShards, isShardIndex, readShardNames, selectFiles } from './select.js'

/** Files that are downloaded at the same time. */
const PARALLEL = 4

export interface PullFile {
  readonly name: string
  /** Bytes. */
  readonly size: number
}

/** What a pull is about to do. */
export interface PullPlan {
  readonly id: string
  readonly revision: string
  /** The commit that the revision stands for. */
  readonly commit: string
  readonly files: readonly PullFile[]
  /** Of all files, in bytes. */
  readonly totalBytes: number
  /** Of those that are not in the cache. */
  readonly downloadBytes: number
}

export interface PullProgress {
  /** The file that moved. */
  readonly file: string
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface PullOptions extends HubOverrides {
  /** Branch, tag or commit. Default `main`. */
  readonly revision?: string
  /** Asked before anything large is downloaded; false refuses. Not asked when everything is in the cache. */
  readonly confirm?: (plan: PullPlan) => boolean | Promise<boolean>
  readonly onProgress?: (progress: PullProgress) => void
  /** How often in a row a request may fail without progress before the pull does. Default 5. */
  readonly retries?: number
  /** Milliseconds without a byte after which a connection counts as broken. Default 60,000. */
  readonly stallMs?: number
  /** Stops the pull; what is downloaded stays and is taken up by the next one. */
  readonly signal?: AbortSignal
}

export interface PullResult {
  /** Folder of the snapshot: what a loader opens. */
  readonly dir: string
  readonly commit: string
  readonly files: readonly PullFile[]
  readonly totalBytes: number
  /** Of `totalBytes`, those that were not in the cache. */
  readonly downloadBytes: number
}

/**
 * Downloads a model into the cache that all Hugging Face tools share, and returns its folder. Only what loading needs:
 * configs, tokenizer, chat template, and one form of the weights, safetensors before .bin. Every file is verified
 * against the hash that the hub states. With HF_HUB_OFFLINE set, the cache alone answers.
 *
 * @param id `owner/name`
 * @throws OctetError `INVALID_ARGUMENT` (id, revision), `HUB_FAILED` (not there, not allowed, not reachable, no weights,
 *   not confirmed), `HASH_MISMATCH`, `INVALID_INDEX`, `FILE_WRITE_FAILED`; the signal's reason when aborted.
 */
export async function pull(id: string, options: PullOptions = {}): Promise<PullResult> {
  checkHubId(id)
  const revision = options.revision ?? 'main'
  checkRevision(revision)
  const retries = checkCount('retries', options.retries ?? 5, 0)
  const stallMs = checkCount('stallMs', options.stallMs ?? 60_000, 1)
  options.signal?.throwIfAborted()
  const environment = readHubEnvironment(options)
  const cache = new RepositoryCache(environment.cacheDir, id)
  const client: HubClient = { environment, id, retries, stallMs, signal: options.signal }
  if (environment.offline) return fromCache(client, cache, revision)

  const repository = await readRepository(client, revision)
  const files = await chooseFiles(client, cache, repository)
  const missing = await missingFiles(cache, files)
  const plan = makePlan(repository, revision, files, missing)
  if (missing.length > 0) await ask(client, plan, options.confirm)
  await checkSpace(environment.cacheDir, plan.downloadBytes)
  await downloadAll(client, cache, repository.commit, missing, plan, options.onProgress)

  // In order, and the ref at the very end: see RepositoryCache.complete.
  for (const file of files) await cache.link(repository.commit, file.name, file.hash.hex)
  await cache.writeRef(revision, repository.commit)
  const { totalBytes, downloadBytes } = plan
  return { dir: cache.snapshot(repository.commit), commit: repository.commit, files: plan.files, totalBytes, downloadBytes }
}

function checkCount(argument: string, value: number, min: number): number {
  // Timers take no longer delay.
  if (Number.isInteger(value) && value >= min && value < 2 ** 31) return value
  throw new OctetError('INVALID_ARGUMENT', { op: 'pull', argument, expected: `a whole number from ${min}`, received: String(value) })
}

async function fromCache(client: HubClient, cache: RepositoryCache, revision: string): Promise<PullResult> {
  const found = await cache.complete(revision)
  if (found === null) throw hubFailed(client, `${revision} in ${client.environment.cacheDir}`, 'nothing complete', 'unset HF_HUB_OFFLINE and pull it once')
  return { ...found, files: [], totalBytes: 0, downloadBytes: 0 }
}

/**
 * In the order in which they are linked: metadata, weights, their index, an adapter. The index is needed to know the
 * shards, so it is downloaded right away.
 */
async function chooseFiles(client: HubClient, cache: RepositoryCache, repository: Repository): Promise<RepositoryFile[]> {
  const { metadata, weights, adapter } = selectFiles(repository.files)
  if (weights === null && adapter === null) {
    const received = repository.files.some((file) => file.name === 'config.json') ? 'none (other forms, such as GGUF, are not read)' : 'no config.json'
    throw hubFailed(client, 'a config.json with weights in safetensors or .bin', received, 'use another repository')
  }
  const files = [...metadata]
  if (weights !== null && isShardIndex(weights.name)) {
    const blob = cache.blob(weights.hash.hex)
    await downloadBlob(client, weights, repository.commit, blob, () => undefined)
    files.push(...findShards(repository.files, readShardNames(await readFile(blob, 'utf8'))))
  }
  if (weights !== null) files.push(weights)
  if (adapter !== null) files.push(adapter)
  return files
}

async function missingFiles(cache: RepositoryCache, files: readonly RepositoryFile[]): Promise<RepositoryFile[]> {
  const there = await Promise.all(files.map((file) => hasBlob(cache.blob(file.hash.hex), file.size)))
  return files.filter((_, i) => there[i] !== true)
}

function makePlan(repository: Repository, revision: string, files: readonly RepositoryFile[], missing: readonly RepositoryFile[]): PullPlan {
  const sum = (list: readonly RepositoryFile[]): number => list.reduce((bytes, file) => bytes + file.size, 0)
  return {
    id: repository.id,
    revision,
    commit: repository.commit,
    files: files.map(({ name, size }) => ({ name, size })),
    totalBytes: sum(files),
    downloadBytes: sum(missing),
  }
}

async function ask(client: HubClient, plan: PullPlan, confirm: PullOptions['confirm']): Promise<void> {
  if (confirm === undefined || (await confirm(plan))) return
  client.signal?.throwIfAborted()
  throw hubFailed(client, `consent to download ${plan.downloadBytes} bytes`, 'a refusal', 'confirm the download')
}

/** Better now than after an hour. */
async function checkSpace(cacheDir: string, bytes: number): Promise<void> {
  const found = await statfs(cacheDir).catch(() => null)
  if (found === null || bytes <= found.bavail * found.bsize) return
  throw new OctetError('FILE_WRITE_FAILED', {
    op: 'pull',
    argument: cacheDir,
    expected: `${bytes} free bytes`,
    received: `${found.bavail * found.bsize}`,
    hint: 'free some disk space, or set HF_HOME to another disk',
  })
}

async function downloadAll(
  client: HubClient,
  cache: RepositoryCache,
  commit: string,
  missing: readonly RepositoryFile[],
  plan: PullPlan,
  onProgress: PullOptions['onProgress'],
): Promise<void> {
  const cached = plan.totalBytes - plan.downloadBytes
  const done = new Map<RepositoryFile, number>()
  const report = (file: RepositoryFile, bytes: number): void => {
    done.set(file, bytes)
    let doneBytes = cached
    for (const part of done.values()) doneBytes += part
    onProgress?.({ file: file.name, doneBytes, totalBytes: plan.totalBytes })
  }
  // The first failure stops the others, and the pull rejects only when all have let go of their files.
  const stop = new AbortController()
  const { signal: outer } = client
  const forward = (): void => stop.abort(outer?.reason)
  if (outer?.aborted === true) forward()
  outer?.addEventListener('abort', forward)
  const { signal } = stop
  const queue = [...missing]
  let failure: { readonly error: unknown } | null = null
  const work = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined && failure === null; file = queue.shift()) {
      const current = file
      try {
        await downloadBlob({ ...client, signal }, current, commit, cache.blob(current.hash.hex), (bytes) => report(current, bytes))
      } catch (error) {
        failure ??= { error }
        stop.abort(error)
      }
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, work))
  outer?.removeEventListener('abort', forward)
  outer?.throwIfAborted()
  if (failure !== null) throw (failure as { error: unknown }).error
}
