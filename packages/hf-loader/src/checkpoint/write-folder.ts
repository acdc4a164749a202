import { lstat, mkdir, open, readdir, realpath, rename } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { withAside } from '../io/aside.js'
import { attempt, syncFolder } from '../io/atomic-write.js'

export interface WriteFolderOptions {
  /** Names the caller in messages. Default `writeFolder`. */
  readonly op?: string
  /** Looked at before the folder takes its name. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Makes a folder that appears whole or not at all: `fill` writes into a folder beside it, which is flushed to the disk and
 * then renamed. Killed at any moment, `dir` is absent (or empty, as it was) or complete; what a killed call has left
 * beside it goes with the next call for the same `dir`: at once where it can be told that its process is dead, else (another
 * machine, another container, another thread of this process) when it has been silent for ten minutes.
 * @param fill gets the path of the folder to write into
 * @returns what `fill` returns
 * @throws OctetError `INVALID_ARGUMENT` when `dir` is a file or a folder that is not empty, `FILE_WRITE_FAILED`.
 * @throws the signal's reason, or what `fill` throws, unchanged; nothing is left then.
 */
export async function writeFolder<T>(dir: string, fill: (folder: string) => Promise<T>, options: WriteFolderOptions = {}): Promise<T> {
  const { op = 'writeFolder', signal } = options
  signal?.throwIfAborted()
  const target = await freeTarget(dir, op)
  const parent = dirname(target)
  await attempt(op, parent, () => mkdir(parent, { recursive: true }))
  return withAside(op, parent, `.${basename(target)}.octet-`, async (aside) => {
    const result = await fill(aside)
    await attempt(op, aside, () => flush(aside))
    signal?.throwIfAborted()
    await attempt(op, target, () => rename(aside, target)).catch(async (error: unknown) => {
      await refuseOccupied(target, op)
      throw error
    })
    await syncFolder(parent)
    return result
  })
}

/**
 * Refuses what {@link writeFolder} would refuse, before any work is done.
 * @throws OctetError `INVALID_ARGUMENT` when `dir` is a file or a folder that is not empty
 */
export async function checkFreeFolder(dir: string, { op = 'writeFolder' }: Pick<WriteFolderOptions, 'op'> = {}): Promise<void> {
  await freeTarget(dir, op)
}

/** Its path; a link to an empty folder stays a link. */
async function freeTarget(dir: string, op: string): Promise<string> {
  const target = await realpath(dir).catch(() => resolve(dir))
  await refuseOccupied(target, op)
  return target
}

async function refuseOccupied(target: string, op: string): Promise<void> {
  // The path is resolved: a link that is left leads nowhere.
  const found = await lstat(target).catch(() => null)
  if (found === null) return
  const names = found.isDirectory() ? await attempt(op, target, () => readdir(target)) : undefined
  if (names?.length === 0) return
  throw new OctetError('INVALID_ARGUMENT', {
    op,
    argument: target,
    expected: 'a folder that does not exist or is empty',
    received: found.isSymbolicLink() ? 'a link that leads nowhere' : names === undefined ? 'a file' : `one with ${names.length} entries`,
    hint: 'name another folder, or empty this one',
  })
}

/** Every file's bytes, then every folder's names. */
async function flush(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) {
      await flush(path)
      continue
    }
    const handle = await open(path, 'r')
    await handle.sync().finally(() => handle.close())
  }
  await syncFolder(folder)
}
