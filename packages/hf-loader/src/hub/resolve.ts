import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { RepositoryCache } from './cache.js'
import { readHubEnvironment } from './environment.js'
import { checkRevision, isHubId } from './names.js'
import { pull, type PullOptions } from './pull.js'

export type ResolvedModel =
  | { readonly source: 'folder'; readonly dir: string }
  | { readonly source: 'cache' | 'hub'; readonly dir: string; readonly commit: string }

/**
 * The folder of a model: an existing folder as it is; else a hub name, from the cache if it is there in full (no request
 * is made; `pull` brings a newer one), else pulled.
 *
 * @param idOrDir A folder, or `owner/name`; an existing folder comes first.
 * @throws OctetError `FILE_NOT_FOUND` when it is neither, and what {@link pull} throws.
 */
export async function resolveModel(idOrDir: string, options: PullOptions = {}): Promise<ResolvedModel> {
  options.signal?.throwIfAborted()
  const dir = resolve(idOrDir)
  const found = await stat(dir).catch(() => null)
  if (found?.isDirectory() === true) return { source: 'folder', dir }
  if (found !== null || !isHubId(idOrDir)) {
    throw new OctetError('FILE_NOT_FOUND', {
      op: 'resolveModel',
      argument: idOrDir,
      expected: 'a folder, or owner/name on the hub',
      received: found === null ? 'neither' : 'a file',
      hint: found === null ? 'check the path' : 'pass the folder it lies in',
    })
  }
  const revision = options.revision ?? 'main'
  checkRevision(revision)
  const cached = await new RepositoryCache(readHubEnvironment(options).cacheDir, idOrDir).complete(revision)
  if (cached !== null) return { source: 'cache', ...cached }
  const { dir: pulled, commit } = await pull(idOrDir, options)
  return { source: 'hub', dir: pulled, commit }
}
