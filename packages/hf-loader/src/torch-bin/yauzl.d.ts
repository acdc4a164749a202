/** The part of yauzl 3 that reads an archive's directory by offset. */
declare module 'yauzl' {
  import type { EventEmitter } from 'node:events'

  export interface Entry {
    readonly fileName: string
    readonly compressionMethod: number
    readonly compressedSize: number
    readonly uncompressedSize: number
    readonly relativeOffsetOfLocalHeader: number
    isEncrypted(): boolean
  }

  export interface ZipFile extends EventEmitter {
    readonly entryCount: number
    readEntry(): void
    readLocalFileHeader(
      entry: Entry,
      options: { minimal: true },
      callback: (error: Error | null, header: { fileDataStart: number }) => void,
    ): void
  }

  export class RandomAccessReader {
    read(buffer: Buffer, offset: number, length: number, position: number, callback: (error: Error | null, bytesRead: number) => void): void
  }

  export function fromRandomAccessReader(
    reader: RandomAccessReader,
    totalSize: number,
    options: { autoClose: boolean; lazyEntries: boolean; decodeStrings: boolean; validateEntrySizes: boolean; strictFileNames: boolean },
    callback: (error: Error | null, zip: ZipFile) => void,
  ): void
}
