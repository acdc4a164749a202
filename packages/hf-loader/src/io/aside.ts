import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { attempt } from './atomic-write.js'
import { findAbandoned, OwnerFile } from './owner.js'

/** Silence after which work set aside by nobody that can be seen from here is taken for abandoned. */
const STALE_MS = 600_000
const FILES = 'files'
const NAME = /^[0-9a-f]{12}$/

/**
 * Runs `work` with an empty folder of its own, `PARENT/PREFIX…/files`, that goes afterwards with what is still in it. What
 * calls with the same prefix left there when they were killed goes first; what a living one works on stays.
 * @throws OctetError `FILE_WRITE_FAILED`, and what `work` throws
 */
export async function withAside<T>(op: string, parent: string, prefix: string, work: (folder: string) => Promise<T>): Promise<T> {
  const aside = join(parent, `${prefix}${randomBytes(6).toString('hex')}`)
  await attempt(op, aside, () => mkdir(aside))
  let owner: OwnerFile | null = null
  try {
    owner = await attempt(op, aside, () => OwnerFile.create(join(aside, 'owner')))
    if (owner === null) throw new OctetError('FILE_WRITE_FAILED', { op, argument: aside, expected: 'a new folder', received: 'one that is in use', hint: 'try again' })
    await removeAbandoned(parent, prefix)
    const files = join(aside, FILES)
    await attempt(op, files, () => mkdir(files))
    return await work(files)
  } finally {
    await removeFiles(aside)
    await owner?.release()
    await remove(aside)
  }
}

async function removeAbandoned(parent: string, prefix: string): Promise<void> {
  const names = (await readdir(parent).catch(() => [])).filter((name) => name.startsWith(prefix) && NAME.test(name.slice(prefix.length)))
  await Promise.all(names.map(async (name) => {
    const path = join(parent, name)
    // Killed before it could say whose it is, a folder has its own time.
    const files = (await readdir(path).catch(() => null)) ?? []
    const mark = files.includes('owner') ? join(path, 'owner') : path
    const abandoned = await findAbandoned(mark, { staleMs: STALE_MS, despiteLife: false }).catch(() => null)
    if (abandoned === null) return
    await removeFiles(path)
    await remove(path)
  }))
}

/** Before the mark of their owner: killed meanwhile, a call leaves files that a later one knows to be abandoned. */
function removeFiles(aside: string): Promise<void> {
  return remove(join(aside, FILES))
}

/** What cannot be removed goes with a later call, and hides no error. */
function remove(path: string): Promise<void> {
  return rm(path, { recursive: true, force: true }).catch(() => undefined)
}
