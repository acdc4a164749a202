import { getJson, hubFailed, type HubClient } from './http.js'
import { isCommit, isPlainPath } from './names.js'

/** An answer lists every file with its hashes: 300 bytes each. */
const MAX_LISTING_BYTES = 64 * 1024 * 1024

/** What a blob must hash to: sha256 of the bytes (LFS), or git's sha1 of `blob <size>\0` and the bytes. */
export interface BlobHash {
  readonly algorithm: 'sha256' | 'git-sha1'
  /** Lower-case hexadecimal; also the blob's name in the cache. */
  readonly hex: string
}

export interface RepositoryFile {
  /** Relative, with forward slashes; checked to stay below its folder. */
  readonly name: string
  readonly size: number
  readonly hash: BlobHash
}

export interface Repository {
  readonly id: string
  readonly commit: string
  readonly files: readonly RepositoryFile[]
}

/**
 * The commit that a revision stands for, and its files with sizes and hashes, in one request.
 *
 * @throws OctetError `HUB_FAILED`, also for a listing with a path that would leave the cache.
 */
export async function readRepository(client: HubClient, revision: string): Promise<Repository> {
  const path = `/api/models/${client.id}/revision/${encodeURIComponent(revision)}?blobs=true`
  const answer = await getJson(client, path, 'the list of files', MAX_LISTING_BYTES)
  const { sha, siblings } = record(answer)
  if (!isCommit(sha)) throw wrong(client, 'a commit', sha)
  if (!Array.isArray(siblings)) throw wrong(client, 'a list of files', siblings)
  const files = siblings.map((entry) => readFile(client, record(entry)))
  const names = new Set(files.map((file) => file.name))
  if (names.size !== files.length) throw wrong(client, 'each file once', 'a name that comes twice')
  return { id: client.id, commit: sha, files }
}

function readFile(client: HubClient, entry: Record<string, unknown>): RepositoryFile {
  const { rfilename: name, blobId, lfs } = entry
  if (typeof name !== 'string' || !isPlainPath(name)) {
    throw hubFailed(client, 'relative file names without ..', JSON.stringify(name) ?? 'none', 'do not use this repository')
  }
  const large = lfs === undefined || lfs === null ? null : record(lfs)
  const size = large?.['size'] ?? entry['size']
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw wrong(client, `the size of ${name}`, size)
  const hex = large === null ? blobId : (large['sha256'] ?? large['oid'])
  if (typeof hex !== 'string' || !(large === null ? /^[0-9a-f]{40}$/ : /^[0-9a-f]{64}$/).test(hex)) throw wrong(client, `the hash of ${name}`, hex)
  return { name, size, hash: { algorithm: large === null ? 'git-sha1' : 'sha256', hex } }
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
}

function wrong(client: HubClient, expected: string, received: unknown): Error {
  return hubFailed(client, expected, (JSON.stringify(received) ?? 'nothing').slice(0, 80), 'check HF_ENDPOINT')
}
