/** Whether whoever made a temporary file or folder still works on it: on this machine, in a container, or elsewhere on a shared disk. */
import { randomBytes } from 'node:crypto'
import { open, readFile, readlink, rm, stat, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** An owner shows itself this often. */
export const RENEW_MS = 1_000

/**
 * A process, so that another can tell whether it lives: numbers of processes are given again, and mean something else in
 * every container.
 */
interface Process {
  readonly pid: number
  /** Of the running system. Null where the system tells none of these three. */
  readonly boot: string | null
  /** The set of process numbers that `pid` is one of. */
  readonly namespace: string | null
  /** When it began, in ticks since the boot. */
  readonly started: string | null
}

interface Owner extends Process {
  /** Of this one ownership. */
  readonly key: string
}

/** A file that says who made it, and is written anew every {@link RENEW_MS} while they live. */
export class OwnerFile {
  readonly #path: string
  readonly #key: string
  readonly #handle: FileHandle
  readonly #renewal: NodeJS.Timeout

  private constructor(path: string, key: string, handle: FileHandle, bytes: Buffer) {
    this.#path = path
    this.#key = key
    this.#handle = handle
    // Written, not touched: then the time is that of the disk's own machine, whatever the clock of this one says.
    const renew = async (): Promise<void> => {
      await handle.write(bytes, 0, bytes.length, 0)
      await handle.datasync()
    }
    this.#renewal = setInterval(() => void renew().catch(() => undefined), RENEW_MS)
    this.#renewal.unref()
  }

  /** Null where the path is taken. Throws what the file system throws. */
  static async create(path: string): Promise<OwnerFile | null> {
    const owner: Owner = { ...(await ownProcess()), key: randomBytes(8).toString('hex') }
    const handle = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return null
      throw error
    })
    if (handle === null) return null
    try {
      const bytes = Buffer.from(JSON.stringify(owner))
      await handle.write(bytes, 0, bytes.length, 0)
      return new OwnerFile(path, owner.key, handle, bytes)
    } catch (error) {
      await handle.close()
      await rm(path, { force: true })
      throw error
    }
  }

  /** Removes the file, unless another has taken its place meanwhile. */
  async release(): Promise<void> {
    clearInterval(this.#renewal)
    await this.#handle.close().catch(() => undefined)
    if ((await readOwner(this.#path))?.key === this.#key) await rm(this.#path, { force: true }).catch(() => undefined)
  }
}

export interface AbandonedOptions {
  /** Silence after which an owner whose life cannot be told any other way is taken for dead. */
  readonly staleMs: number
  /** Whether silence ends the ownership of a process that is known to live: of a thread in it that has ended, or one that is stopped. */
  readonly despiteLife: boolean
  readonly signal?: AbortSignal | undefined
}

/** What identifies the ownership of an owner file that nobody keeps any more; null while somebody does, or without a file. */
export async function findAbandoned(path: string, { staleMs, despiteLife, signal }: AbandonedOptions): Promise<string | null> {
  const found = await look(path)
  if (found === null) return null
  const alive = found.owner === null ? undefined : await isAlive(found.owner)
  if (alive === false) return found.identity
  if (alive === true && !despiteLife && found.owner?.pid !== process.pid) return null
  if ((await diskTime(dirname(path))) - found.mtimeMs < staleMs) return null
  // Whoever slept with this machine wakes with it, and shows itself now.
  await sleep(2 * RENEW_MS, undefined, { signal })
  const again = await look(path)
  return again !== null && again.identity === found.identity && again.mtimeMs === found.mtimeMs ? found.identity : null
}

/** See {@link findAbandoned}: what a file's ownership is now. */
export async function identityOf(path: string): Promise<string | null> {
  return (await look(path))?.identity ?? null
}

async function look(path: string): Promise<{ owner: Owner | null; mtimeMs: number; identity: string } | null> {
  const found = await stat(path).catch(() => null)
  if (found === null) return null
  const owner = await readOwner(path)
  return { owner, mtimeMs: found.mtimeMs, identity: owner?.key ?? 'nobody' }
}

/** Null: not there, or being written. */
async function readOwner(path: string): Promise<Owner | null> {
  try {
    const value = JSON.parse(await readFile(path, 'utf8')) as Partial<Owner> | null
    const { pid, boot = null, namespace = null, started = null, key } = value ?? {}
    return typeof pid === 'number' && typeof key === 'string' ? { pid, boot, namespace, started, key } : null
  } catch {
    return null
  }
}

/** The time of the disk's own machine: two machines' clocks differ. */
async function diskTime(folder: string): Promise<number> {
  const path = join(folder, `.octet-clock-${randomBytes(6).toString('hex')}`)
  const handle = await open(path, 'wx')
  try {
    await handle.write('0')
    await handle.datasync()
    return (await handle.stat()).mtimeMs
  } finally {
    await handle.close()
    await rm(path, { force: true }).catch(() => undefined)
  }
}

/** Undefined where that cannot be told from here. */
async function isAlive({ pid, boot, namespace, started }: Process): Promise<boolean | undefined> {
  const own = await ownProcess()
  // Numbers of another boot or container mean nothing here, though its processes may live.
  if (own.boot === null || own.namespace === null || started === null || boot !== own.boot || namespace !== own.namespace) return undefined
  const found = await statusOf(pid)
  if (found !== null) return found.started === started && !found.ended
  try {
    process.kill(pid, 0)
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH' ? false : undefined
  }
}

let own: Promise<Process> | undefined

function ownProcess(): Promise<Process> {
  own ??= (async () => {
    const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').then((text) => text.trim(), () => null)
    const namespace = await readlink('/proc/self/ns/pid').catch(() => null)
    return { pid: process.pid, boot, namespace, started: (await statusOf(process.pid))?.started ?? null }
  })()
  return own
}

/** From /proc/PID/stat: field 3 is the state, field 22 the start; the name in parentheses may hold anything. */
async function statusOf(pid: number): Promise<{ started: string; ended: boolean } | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null)
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ')
  const started = fields?.[19]
  return started === undefined ? null : { started, ended: fields![0] === 'Z' || fields![0] === 'X' }
}
