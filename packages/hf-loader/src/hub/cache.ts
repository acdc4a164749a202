/** The layout that huggingface_hub and @huggingface/hub share: `models--owner--name/{blobs,refs,snapshots}`. */
import { copyFile, mkdir, readFile, readlink, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { randomBytes } from 'node:crypto'
import { dirname, join, relative } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { isCommit } from './names.js'
import { isShardIndex, readShardNames, WEIGHTS } from './select.js'

export class RepositoryCache {
  readonly #root: string

  constructor(cacheDir: string, id: string) {
    this.#root = join(cacheDir, `models--${id.replace('/', '--')}`)
  }

  blob(hex: string): string {
    return join(this.#root, 'blobs', hex)
  }

  snapshot(commit: string): string {
    return join(this.#root, 'snapshots', commit)
  }

  /** The commit that a revision last stood for; null when it was never pulled. */
  async readRef(revision: string): Promise<string | null> {
    if (isCommit(revision)) return revision
    const commit = (await readFile(this.#ref(revision), 'utf8').catch(() => '')).trim()
    return isCommit(commit) ? commit : null
  }

  async writeRef(revision: string, commit: string): Promise<void> {
    if (revision === commit) return
    const path = this.#ref(revision)
    await writing(path, async () => {
      await mkdir(dirname(path), { recursive: true })
      const temporary = `${path}.${suffix()}`
      await writeFile(temporary, commit)
      await rename(temporary, path)
    })
  }

  /** Puts a blob under its name into a snapshot: a relative link, or a copy where the system has no links. */
  async link(commit: string, name: string, hex: string): Promise<void> {
    const path = join(this.snapshot(commit), ...name.split('/'))
    const target = relative(dirname(path), this.blob(hex))
    if ((await readlink(path).catch(() => null)) === target) return
    await writing(path, async () => {
      await mkdir(dirname(path), { recursive: true })
      const temporary = `${path}.${suffix()}`
      try {
        await symlink(target, temporary)
      } catch {
        await copyFile(this.blob(hex), temporary)
      }
      await rename(temporary, path)
    })
  }

  /**
   * The snapshot of a revision, when it holds a config (or an adapter's) and every weight file.
   * Links are made in the order metadata, weights, index, adapter: whatever comes before is there too.
   */
  async complete(revision: string): Promise<{ dir: string; commit: string } | null> {
    const commit = await this.readRef(revision)
    if (commit === null) return null
    const dir = this.snapshot(commit)
    const has = async (name: string): Promise<boolean> => (await stat(join(dir, ...name.split('/'))).catch(() => null))?.isFile() === true
    for (const { config, weights } of WEIGHTS) {
      if (!(await has(config)) || !(await has(weights))) continue
      if (!isShardIndex(weights)) return { dir, commit }
      const shards = await readFile(join(dir, weights), 'utf8').then(readShardNames).catch(() => null)
      if (shards !== null && (await Promise.all(shards.map(has))).every(Boolean)) return { dir, commit }
    }
    return null
  }

  #ref(revision: string): string {
    return join(this.#root, 'refs', ...revision.split('/'))
  }
}

function suffix(): string {
  return `${randomBytes(6).toString('hex')}.tmp`
}

/** Runs a step that writes; what the system refuses becomes `FILE_WRITE_FAILED` naming the path. */
export async function writing<T>(path: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step()
  } catch (error) {
    if (OctetError.is(error) || !(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') throw error
    throw new OctetError('FILE_WRITE_FAILED', {
      op: 'pull',
      argument: path,
      expected: 'a file that can be written',
      received: error.message,
      hint: error.code === 'ENOSPC' ? 'free some disk space, or set HF_HOME to another disk' : 'check the permissions, or set HF_HOME to a folder of your own',
      cause: error,
    })
  }
}

/** Removes a file that may not be there. */
export async function remove(path: string): Promise<void> {
  await rm(path, { force: true })
}
