import type { Output } from './output.js'

/** What every command gets beside its flags. */
export interface Context {
  readonly output: Output
  /** Aborts on SIGINT and SIGTERM. */
  readonly signal: AbortSignal
  readonly json: boolean
  readonly stdin: NodeJS.ReadStream
  readonly stderr: NodeJS.WriteStream
}
