import { fromRandomAccessReader, RandomAccessReader, type Entry, type ZipFile } from 'yauzl'
import { quoteName } from '../io/names.js'
import type { RegularFile } from '../io/regular-file.js'
import { badPickle, PickleFault } from './pickle-values.js'

/** torch writes one entry a storage and a handful more; this many would be a directory of 20 MB. */
const MAX_ENTRIES = 200_000
const WINDOW_BYTES = 16 * 2 ** 10

/** A member of the archive: stored bytes at a place in the file. */
export interface ZipMember {
  readonly byteLength: number
  /** First byte within the file, read from the member's own header. */
  offset(): Promise<number>
}

/**
 * Lists a zip archive without reading its data. Every member must be stored plainly under its own name and lie in the
 * file, and together they cannot claim more bytes than the file has, so nothing can unpack to more than it is.
 * @throws PickleFault `INVALID_TORCH_FILE`; the OctetErrors of reading.
 */
export async function openZip(file: RegularFile, signal?: AbortSignal): Promise<ReadonlyMap<string, ZipMember>> {
  const reader = new WindowReader(file, signal)
  const zip = await reader.guard<ZipFile>((resolve, reject) => {
    const options = { autoClose: false, lazyEntries: true, decodeStrings: true, validateEntrySizes: true, strictFileNames: true }
    fromRandomAccessReader(reader, file.size, options, (error, opened) => (error === null ? resolve(opened) : reject(error)))
  })
  if (zip.entryCount > MAX_ENTRIES) throw badPickle(`at most ${MAX_ENTRIES} zip entries`, String(zip.entryCount))
  const members = new Map<string, ZipMember>()
  let claimed = 0
  await reader.guard<void>((resolve, reject) => {
    zip.on('error', reject)
    zip.on('end', resolve)
    zip.on('entry', (entry: Entry) => {
      const fault = faultOf(entry, members)
      claimed += entry.uncompressedSize
      if (fault !== undefined) return reject(fault)
      if (claimed > file.size) return reject(badPickle(`entries within the file's ${file.size} bytes`, 'entries that claim more'))
      members.set(entry.fileName, memberOf(zip, reader, entry))
      zip.readEntry()
    })
    zip.readEntry()
  })
  return members
}

function faultOf(entry: Entry, members: ReadonlyMap<string, unknown>): PickleFault | undefined {
  const name = quoteName(entry.fileName)
  if (members.has(entry.fileName)) return badPickle('distinct zip entries', `${name} twice`)
  if (entry.isEncrypted()) return badPickle('plain zip entries', `${name}, which is encrypted`)
  if (entry.compressionMethod !== 0) return badPickle('stored zip entries', `${name}, which is compressed`)
  return undefined
}

function memberOf(zip: ZipFile, reader: WindowReader, entry: Entry): ZipMember {
  const { relativeOffsetOfLocalHeader, compressedSize } = entry
  return {
    byteLength: compressedSize,
    offset: () =>
      reader.guard((resolve, reject) => {
        // Only the two numbers are kept of an entry, and they are all this call reads.
        const place = { relativeOffsetOfLocalHeader, compressedSize } as Entry
        zip.readLocalFileHeader(place, { minimal: true }, (error, header) => (error === null ? resolve(header.fileDataStart) : reject(error)))
      }),
  }
}

/** Serves yauzl's small reads from one window of the file, and carries whatever goes wrong to the waiting call. */
class WindowReader extends RandomAccessReader {
  private readonly window = Buffer.alloc(WINDOW_BYTES)
  private windowStart = 0
  private windowLength = 0
  private crash: (error: unknown) => void = () => undefined

  constructor(
    private readonly file: RegularFile,
    private readonly signal: AbortSignal | undefined,
  ) {
    super()
  }

  /** Runs one call of yauzl; its own errors become faults of the file. */
  guard<T>(call: (resolve: (value: T) => void, reject: (error: unknown) => void) => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const fail = (error: unknown): void => reject(isOfYauzl(error) ? badPickle('a zip archive', error.message) : error)
      this.crash = fail
      call(resolve, fail)
    })
  }

  override read(buffer: Buffer, offset: number, length: number, position: number, callback: (error: Error | null, bytesRead: number) => void): void {
    this.fill(buffer, offset, length, position)
      .then((bytesRead) => callback(null, bytesRead))
      // An error, or an exception of yauzl's own code in that callback: both end the call that waits.
      .catch((error: unknown) => this.crash(error))
  }

  private async fill(buffer: Buffer, offset: number, length: number, position: number): Promise<number> {
    if (!(position >= 0 && position + length <= this.file.size)) return 0
    if (length > WINDOW_BYTES) {
      await this.file.readInto(buffer.subarray(offset, offset + length), position, this.signal)
      return length
    }
    if (position < this.windowStart || position + length > this.windowStart + this.windowLength) {
      this.windowStart = position
      this.windowLength = 0
      const available = Math.min(WINDOW_BYTES, this.file.size - position)
      await this.file.readInto(this.window.subarray(0, available), position, this.signal)
      this.windowLength = available
    }
    const from = position - this.windowStart
    this.window.copy(buffer, offset, from, from + length)
    return length
  }
}

/** yauzl throws bare Errors; ours and the caller's abort reason are something else. */
function isOfYauzl(error: unknown): error is Error {
  return error instanceof Error && error.constructor !== PickleFault && !('code' in error) && error.name === 'Error'
}
