import { randomBytes } from 'node:crypto'
import { open, readFile, rename, stat, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { remove, writing } from './cache.js'

/** A holder renews its lock this often … */
const RENEW_MS = 2_000
/** … and is taken for dead when it has not for this long. */
const STALE_MS = 30_000
const POLL_MS = 100

interface Owner {
  readonly pid: number
  readonly host: string
  readonly key: string
}

/**
 * Runs `work` while holding a lock file, so that two processes (or two calls in one) do not write one blob. A lock whose
 * owner has died is taken over. Waiting ends with the signal.
 */
export async function withLock<T>(path: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  const owner: Owner = { pid: process.pid, host: hostname(), key: randomBytes(8).toString('hex') }
  while (!(await acquire(path, owner))) {
    signal?.throwIfAborted()
    await breakIfDead(path)
    await sleep(POLL_MS, undefined, { signal }).catch(() => signal?.throwIfAborted())
  }
  const renewal = setInterval(() => {
    const now = new Date()
    void utimes(path, now, now).catch(() => undefined)
  }, RENEW_MS)
  renewal.unref()
  try {
    return await work()
  } finally {
    clearInterval(renewal)
    // Not a lock that another took over while this process was suspended.
    if ((await readOwner(path))?.key === owner.key) await remove(path)
  }
}

async function acquire(path: string, owner: Owner): Promise<boolean> {
  return writing(path, async () => {
    const file = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return null
      throw error
    })
    if (file === null) return false
    await file.writeFile(JSON.stringify(owner))
    await file.close()
    return true
  })
}

async function breakIfDead(path: string): Promise<void> {
  const found = await stat(path).catch(() => null)
  if (found === null) return
  const owner = await readOwner(path)
  const gone = owner !== null && owner.host === hostname() && !isAlive(owner.pid)
  if (!gone && Date.now() - found.mtimeMs < STALE_MS) return
  // Whoever renames it has broken it; if another was quicker and holds a new lock by now, it is put back.
  const aside = `${path}.${randomBytes(6).toString('hex')}`
  if (!(await rename(path, aside).then(() => true, () => false))) return
  const broken = await readOwner(aside)
  if (broken?.key !== owner?.key) await rename(aside, path).catch(() => undefined)
  else await remove(aside)
}

async function readOwner(path: string): Promise<Owner | null> {
  try {
    const value = JSON.parse(await readFile(path, 'utf8')) as Partial<Owner> | null
    const { pid, host, key } = value ?? {}
    return typeof pid === 'number' && typeof host === 'string' && typeof key === 'string' ? { pid, host, key } : null
  } catch {
    // Not there, or being written.
    return null
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
