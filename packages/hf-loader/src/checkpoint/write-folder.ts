import { createHash, randomBytes } from 'node:crypto'
import { lstat, mkdir, open, readdir, realpath, rename, rm, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { attempt, syncFolder } from '../io/atomic-write.js'

const DAY_MS = 86_400_000

export interface WriteFolderOptions {
  /** Names the caller in messages. Default `writeFolder`. */
  readonly op?: string
  /** Looked at before the folder takes its name. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Makes a folder that appears whole or not at all: `fill` writes into a folder beside it, which is flushed to the disk and
 * then renamed. Killed at any moment, `dir` is absent (or empty, as it was) or complete; what a killed call has left
 * beside it goes with the next call for the same `dir`.
 * @param fill gets the path of the folder to write into
 * @returns what `fill` returns
 * @throws OctetError `INVALID_ARGUMENT` when `dir` is a file or a folder that is not empty, `FILE_WRITE_FAILED`.
 * @throws the signal's reason, or what `fill` throws, unchanged; nothing is left then.
 */
export async function writeFolder<T>(dir: string, fill: (folder: string) => Promise<T>, options: WriteFolderOptions = {}): Promise<T> {
  const { op = 'writeFolder', signal } = options
  signal?.throwIfAborted()
  // A link to an empty folder stays a link.
  const target = await realpath(dir).catch(() => resolve(dir))
  await refuseOccupied(target, op)
  const parent = dirname(target)
  await attempt(op, parent, () => mkdir(parent, { recursive: true }))
  await removeLeftovers(target)
  const aside = join(parent, `${prefixOf(target)}${process.pid}-${hostKey()}-${randomBytes(6).toString('hex')}`)
  try {
    await attempt(op, aside, () => mkdir(aside))
    const result = await fill(aside)
    await attempt(op, aside, () => flush(aside))
    signal?.throwIfAborted()
    await attempt(op, target, () => rename(aside, target)).catch(async (error: unknown) => {
      await refuseOccupied(target, op)
      throw error
    })
    await syncFolder(parent)
    return result
  } finally {
    // What cannot be removed goes with the next call, and hides no error.
    await rm(aside, { recursive: true, force: true }).catch(() => undefined)
  }
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

/** What calls of processes of this machine that have died left; of other machines, what is older than a day. */
async function removeLeftovers(target: string): Promise<void> {
  const parent = dirname(target)
  const prefix = prefixOf(target)
  for (const name of await readdir(parent).catch(() => [])) {
    const [, pid, host] = name.startsWith(prefix) ? (/^(\d+)-([0-9a-f]{8})-[0-9a-f]{12}$/.exec(name.slice(prefix.length)) ?? []) : []
    if (pid === undefined) continue
    const path = join(parent, name)
    const dead = host === hostKey() ? !isAlive(Number(pid)) : Date.now() - ((await stat(path).catch(() => null))?.mtimeMs ?? Infinity) > DAY_MS
    // What cannot be removed is in nobody's way.
    if (dead) await rm(path, { recursive: true, force: true }).catch(() => undefined)
  }
}

function prefixOf(target: string): string {
  return `.${basename(target)}.octet-`
}

function hostKey(): string {
  return createHash('sha256').update(hostname()).digest('hex').slice(0, 8)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
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
