import { createHash, type Hash } from 'node:crypto'
import { mkdir, open, rename, stat, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { remove, writing } from './cache.js'
import { bodyOf, get, hubFailed, Retryable, StallTimer, withRetries, type HubClient } from './http.js'
import { withLock } from './lock.js'
import type { RepositoryFile } from './repository.js'

const READ_CHUNK = 1 << 20

/**
 * Brings one file to `blob`, its place in the cache, and verifies it. What an earlier attempt left is completed by a
 * Range request. Nothing stands at `blob` before its hash is right.
 *
 * @param onBytes Told how many bytes of the file are there, at first and as they come; may fall when a download starts anew.
 * @throws OctetError `HUB_FAILED`, `HASH_MISMATCH`, `FILE_WRITE_FAILED`; the signal's reason.
 */
export async function downloadBlob(client: HubClient, file: RepositoryFile, commit: string, blob: string, onBytes: (bytes: number) => void): Promise<void> {
  await writing(blob, () => mkdir(dirname(blob), { recursive: true }))
  await withLock(`${blob}.octet-lock`, client.signal, async () => {
    if (await hasBlob(blob, file.size)) {
      onBytes(file.size)
      return
    }
    const partial = `${blob}.octet-incomplete`
    const handle = await writing(partial, () => open(partial, 'a+'))
    try {
      await new Download(client, file, commit, handle, onBytes).run()
      await writing(partial, () => handle.sync())
    } catch (error) {
      // A wrong hash must not be continued; anything else may be.
      if (OctetError.is(error, 'HASH_MISMATCH')) await remove(partial)
      throw error
    } finally {
      await handle.close()
    }
    await writing(blob, () => rename(partial, blob))
  })
}

export async function hasBlob(blob: string, size: number): Promise<boolean> {
  const found = await stat(blob).catch(() => null)
  return found?.isFile() === true && found.size === size
}

class Download {
  readonly #client: HubClient
  readonly #file: RepositoryFile
  readonly #commit: string
  readonly #handle: FileHandle
  readonly #onBytes: (bytes: number) => void
  #hash: Hash
  #received = 0

  constructor(client: HubClient, file: RepositoryFile, commit: string, handle: FileHandle, onBytes: (bytes: number) => void) {
    this.#client = client
    this.#file = file
    this.#commit = commit
    this.#handle = handle
    this.#onBytes = onBytes
    this.#hash = this.#freshHash()
  }

  async run(): Promise<void> {
    const resumed = await this.#takeUp()
    await this.#fetchRest()
    if (this.#isRight()) return
    if (!resumed) throw this.#mismatch()
    // What an earlier attempt left may be at fault: once more from the start.
    await this.#restart()
    await this.#fetchRest()
    if (!this.#isRight()) throw this.#mismatch()
  }

  /** Hashes what is there already; true if there was anything. */
  async #takeUp(): Promise<boolean> {
    const { size } = await this.#handle.stat()
    if (size > this.#file.size) {
      await this.#restart()
      return false
    }
    const buffer = Buffer.allocUnsafe(READ_CHUNK)
    while (this.#received < size) {
      this.#client.signal?.throwIfAborted()
      const { bytesRead } = await this.#handle.read(buffer, 0, Math.min(READ_CHUNK, size - this.#received), this.#received)
      if (bytesRead === 0) break
      this.#hash.update(buffer.subarray(0, bytesRead))
      this.#received += bytesRead
    }
    this.#onBytes(this.#received)
    return this.#received > 0
  }

  async #fetchRest(): Promise<void> {
    const { name, size } = this.#file
    if (this.#received === size) return
    await withRetries(this.#client, name, () => this.#fetchOnce(), () => this.#received)
  }

  async #fetchOnce(): Promise<void> {
    const { name, size } = this.#file
    const from = this.#received
    const path = `/${this.#client.id}/resolve/${this.#commit}/${name.split('/').map(encodeURIComponent).join('/')}`
    const stall = new StallTimer(this.#client)
    try {
      const response = await get(this.#client, path, from > 0 ? { range: `bytes=${from}-` } : {}, stall)
      if (response.status === 416 || (response.status === 206 && !startsAt(response, from))) {
        void response.body?.cancel().catch(() => undefined)
        await this.#restart()
        throw new Retryable('another range than the one asked for')
      }
      // A server without ranges sends everything again.
      if (response.status !== 206 && from > 0) await this.#restart()
      for await (const chunk of bodyOf(this.#client, response, stall)) {
        if (this.#received + chunk.length > size) throw hubFailed(this.#client, `${size} bytes of ${name}`, 'more', 'check HF_ENDPOINT')
        await writing(name, () => writeAll(this.#handle, chunk))
        this.#hash.update(chunk)
        this.#received += chunk.length
        this.#onBytes(this.#received)
      }
    } finally {
      stall.stop()
    }
    if (this.#received < size) throw new Retryable(`the connection ended after ${this.#received} of ${size} bytes of ${name}`)
  }

  async #restart(): Promise<void> {
    await writing(this.#file.name, () => this.#handle.truncate(0))
    this.#hash = this.#freshHash()
    this.#received = 0
    this.#onBytes(0)
  }

  #freshHash(): Hash {
    const { algorithm } = this.#file.hash
    return algorithm === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${this.#file.size}\0`)
  }

  #isRight(): boolean {
    return this.#hash.copy().digest('hex') === this.#file.hash.hex
  }

  #mismatch(): OctetError {
    const { name, hash } = this.#file
    return new OctetError('HASH_MISMATCH', {
      op: 'pull',
      argument: name,
      expected: `${hash.algorithm} ${hash.hex}`,
      received: this.#hash.digest('hex'),
      hint: 'pull again; if it stays, the server or something between alters the file',
    })
  }
}

function startsAt(response: Response, from: number): boolean {
  return Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1]) === from
}

async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length; ) at += (await handle.write(chunk, at)).bytesWritten
}
