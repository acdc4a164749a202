import { constants } from 'node:fs'
import { open, stat, type FileHandle } from 'node:fs/promises'
import { resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'

/** No single allocation of this package is larger: Node 20 cannot hold 4 GiB in one Buffer, and a shard may be bigger. */
export const MAX_BUFFER_BYTES = 2 ** 30

/** Bytes asked of the kernel in one read: an abort is seen between two of them. */
const READ_CHUNK = 16 * 2 ** 20

/**
 * A regular file open for positioned reads. There is no memory map: a file that is truncated while it is mapped kills
 * the process, while a short read is an error a caller can handle.
 */
export class RegularFile {
  private closing: Promise<void> | undefined

  private constructor(
    readonly op: string,
    readonly path: string,
    /** Bytes when it was opened. */
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  /** @throws OctetError `FILE_NOT_FOUND` when the path is absent, unreadable, or no regular file. */
  static async open(path: string, op: string): Promise<RegularFile> {
    const absolute = resolve(path)
    let handle: FileHandle | undefined
    try {
      // Looked at before it is opened: opening a named pipe would wait for a writer.
      if (!(await stat(absolute)).isFile()) throw notAFile(absolute, op)
      handle = await open(absolute, constants.O_RDONLY | constants.O_NONBLOCK)
      const info = await handle.stat()
      if (!info.isFile()) throw notAFile(absolute, op)
      return new RegularFile(op, absolute, info.size, handle)
    } catch (error) {
      await handle?.close()
      throw OctetError.is(error) ? error : cannotRead(absolute, op, error)
    }
  }

  /**
   * Fills `target` from `position`.
   * @throws OctetError `FILE_CHANGED` when the file ends before `target` is full, `DISPOSED` after `close`.
   * @throws the signal's reason, unchanged.
   */
  async readInto(target: Uint8Array, position: number, signal?: AbortSignal): Promise<void> {
    let done = 0
    while (done < target.byteLength) {
      signal?.throwIfAborted()
      this.assertOpen()
      const length = Math.min(READ_CHUNK, target.byteLength - done)
      const bytesRead = await this.readOnce(target, done, length, position + done)
      if (bytesRead === 0) {
        throw new OctetError('FILE_CHANGED', {
          op: this.op,
          argument: this.path,
          expected: `${target.byteLength} bytes at ${position}`,
          received: `${done} bytes before the end of the file`,
          hint: 'keep the file unchanged while it is being read, then open it again',
        })
      }
      done += bytesRead
    }
  }

  /** Reads `length` bytes; the range is checked against the file before anything is allocated. */
  async read(position: number, length: number, signal?: AbortSignal): Promise<Buffer> {
    if (position < 0 || length < 0 || position + length > this.size) {
      throw new OctetError('INTERNAL', {
        op: this.op,
        argument: this.path,
        expected: `a range within ${this.size} bytes`,
        received: `[${position}, ${position + length})`,
      })
    }
    const buffer = Buffer.allocUnsafeSlow(length)
    await this.readInto(buffer, position, signal)
    return buffer
  }

  /** Idempotent; reads in flight finish first. */
  close(): Promise<void> {
    this.closing ??= this.handle.close()
    return this.closing
  }

  private assertOpen(): void {
    if (this.closing === undefined) return
    throw new OctetError('DISPOSED', { op: this.op, argument: this.path, expected: 'an open file', received: 'a closed one' })
  }

  private async readOnce(target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
    try {
      return (await this.handle.read(target, offset, length, position)).bytesRead
    } catch (error) {
      throw cannotRead(this.path, this.op, error)
    }
  }
}

function notAFile(path: string, op: string): OctetError {
  return new OctetError('FILE_NOT_FOUND', { op, argument: path, expected: 'a regular file', received: 'something else' })
}

/** Wraps an error of the operating system. */
export function cannotRead(path: string, op: string, cause: unknown): OctetError {
  const code = (cause as NodeJS.ErrnoException).code
  return new OctetError('FILE_NOT_FOUND', {
    op,
    argument: path,
    expected: 'a file that can be read',
    received: code ?? String(cause),
    hint: 'check the path and its permissions',
    cause,
  })
}
