import { randomBytes } from 'node:crypto'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'

/** Sequential writes to one file; short writes are continued. */
export class FileWriter {
  constructor(
    private readonly op: string,
    private readonly path: string,
    private readonly handle: FileHandle,
  ) {}

  /** @throws OctetError `FILE_WRITE_FAILED`. */
  async write(bytes: Uint8Array): Promise<void> {
    let done = 0
    while (done < bytes.byteLength) {
      // The kernel takes at most 2 GiB at once.
      const length = Math.min(bytes.byteLength - done, 2 ** 30)
      done += (await attempt(this.op, this.path, () => this.handle.write(bytes, done, length))).bytesWritten
    }
  }
}

/**
 * Writes a file that either appears whole or not at all: a temporary file beside it, flushed to the disk, then renamed.
 * A failure removes the temporary file; an error that `write` throws by itself passes unchanged.
 * @throws OctetError `FILE_WRITE_FAILED`.
 */
export async function writeFileAtomic(path: string, op: string, write: (writer: FileWriter) => Promise<void>): Promise<void> {
  const target = resolve(path)
  const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(6).toString('hex')}.tmp`)
  const handle = await attempt(op, target, () => open(temporary, 'wx'))
  try {
    try {
      await write(new FileWriter(op, target, handle))
      await attempt(op, target, () => handle.sync())
    } finally {
      await handle.close()
    }
    await attempt(op, target, () => rename(temporary, target))
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await syncFolder(dirname(target))
}

/** Makes renames in a folder durable. Some file systems cannot flush a folder; the rename itself stands there too. */
export async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch {
    return
  }
}

/** Runs a call of the file system and names the file it failed on. */
export async function attempt<T>(op: string, path: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    throw new OctetError('FILE_WRITE_FAILED', {
      op,
      argument: path,
      expected: 'a file that can be written',
      received: (cause as NodeJS.ErrnoException).code ?? String(cause),
      hint: 'check the folder, its permissions and the free space',
      cause,
    })
  }
}
