import { randomBytes } from 'node:crypto'
import { rename } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { findAbandoned, identityOf, OwnerFile, RENEW_MS } from '../io/owner.js'
import { remove, writing } from './cache.js'

/** A holder that has been silent for this long is taken for dead. */
const STALE_MS = 30_000
const POLL_MS = 100

/**
 * Runs `work` while holding a lock file, so that two processes (or two calls in one) do not write one blob. A lock whose
 * owner has died is taken over. Waiting ends with the signal.
 */
export async function withLock<T>(path: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  const owner = await acquire(path, signal)
  try {
    return await work()
  } finally {
    await owner.release()
  }
}

async function acquire(path: string, signal: AbortSignal | undefined): Promise<OwnerFile> {
  for (let polls = 0; ; polls++) {
    const owner = await writing(path, () => OwnerFile.create(path))
    if (owner !== null) return owner
    signal?.throwIfAborted()
    // Asked no more often than an owner shows itself.
    if (polls % (RENEW_MS / POLL_MS) === 0) await breakIfAbandoned(path, signal)
    await sleep(POLL_MS, undefined, { signal }).catch(() => signal?.throwIfAborted())
  }
}

async function breakIfAbandoned(path: string, signal: AbortSignal | undefined): Promise<void> {
  const abandoned = await writing(path, () => findAbandoned(path, { staleMs: STALE_MS, despiteLife: true, signal })).catch((error: unknown) => {
    signal?.throwIfAborted()
    throw error
  })
  if (abandoned === null) return
  // Whoever renames it has broken it; if another was quicker and holds a new lock by now, it is put back.
  const aside = `${path}.${randomBytes(6).toString('hex')}`
  if (!(await rename(path, aside).then(() => true, () => false))) return
  if ((await identityOf(aside)) !== abandoned) await rename(aside, path).catch(() => undefined)
  else await remove(aside)
}
