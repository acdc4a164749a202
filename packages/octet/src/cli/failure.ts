import { CommanderError } from 'commander'
import { OctetError } from '@octet-llm/core'
import { ReaderGone, SCHEMA_VERSION } from './output.js'

/** How a command ended badly: what to print and the exit status. */
export interface Failure {
  /** 0 nothing to say, 1 failure, 2 usage, 130 interrupted. */
  readonly status: 0 | 1 | 2 | 130
  readonly code: string
  /** One sentence; '' when nothing is to be printed. */
  readonly message: string
  readonly hint?: string
  readonly stack?: string
}

const NOTHING = { code: '', message: '' }

/** A wrong flag or value. */
export function usage(message: string, hint?: string): OctetError {
  return new OctetError('USAGE', { message: hint === undefined ? message : `${message}; ${hint}`, ...(hint === undefined ? {} : { hint }) })
}

/** Turns whatever a command threw into what its caller sees. */
export function describeFailure(error: unknown, interrupted: boolean): Failure {
  if (interrupted) return { status: 130, ...NOTHING }
  if (error instanceof ReaderGone) return { status: 0, ...NOTHING }
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return { status: 0, ...NOTHING }
    const message = error.message.replace(/^error: /, '').split('\n').join(' ')
    return { status: 2, code: 'USAGE', message: `${message}; run octet --help to see what there is`, hint: 'run octet --help to see what there is' }
  }
  if (OctetError.is(error)) {
    return {
      status: error.code === 'USAGE' ? 2 : 1,
      code: error.code,
      message: error.message,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      ...(error.stack === undefined ? {} : { stack: error.stack }),
    }
  }
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  const hint = 'this is a bug in Octet: run the command again with --debug and report what it prints'
  return { status: 1, code: 'INTERNAL', message: `${text}; ${hint}`, hint, ...(error instanceof Error && error.stack !== undefined ? { stack: error.stack } : {}) }
}

/** Prints a failure: an object on stdout with `--json`, else one line on stderr. */
export function reportFailure(failure: Failure, { json, debug }: { json: boolean; debug: boolean }): void {
  if (failure.message === '') return
  if (json) {
    const { code, message, hint } = failure
    process.stdout.write(`${JSON.stringify({ schemaVersion: SCHEMA_VERSION, error: { code, message, hint: hint ?? null } })}\n`)
  } else {
    process.stderr.write(`octet: ${failure.message}\n`)
  }
  if (debug && failure.stack !== undefined) process.stderr.write(`${failure.stack}\n`)
}
