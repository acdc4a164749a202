import type { ErrorCode } from './codes.js'

const MARK = Symbol.for('octet-llm.error')

export interface OctetErrorDetails {
  /** Operation or function that refused, as users call it: `rmsNorm`, `openSafetensors`. */
  op?: string
  /** The argument, flag, file or tensor at fault. */
  argument?: string
  expected?: string
  received?: string
  /** What to do next, as an imperative sentence without a final stop. */
  hint?: string
  /** Replaces the sentence made from the other fields. */
  message?: string
  cause?: unknown
}

/**
 * The one error class of every Octet package. `message` is a single sentence:
 * `[rmsNorm] weight: expected [4096], received [4095]; hint`.
 * Test with {@link OctetError.is}, which also knows errors of another copy of this package.
 */
export class OctetError extends Error {
  readonly code: ErrorCode
  readonly op?: string
  readonly argument?: string
  readonly expected?: string
  readonly received?: string
  readonly hint?: string

  constructor(code: ErrorCode, details: OctetErrorDetails = {}) {
    super(details.message ?? compose(code, details), details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'OctetError'
    this.code = code
    if (details.op !== undefined) this.op = details.op
    if (details.argument !== undefined) this.argument = details.argument
    if (details.expected !== undefined) this.expected = details.expected
    if (details.received !== undefined) this.received = details.received
    if (details.hint !== undefined) this.hint = details.hint
    Object.defineProperty(this, MARK, { value: true })
  }

  /** True for an OctetError of this or any other loaded copy of core, with `code` when given. */
  static is(error: unknown, code?: ErrorCode): error is OctetError {
    if (typeof error !== 'object' || error === null || !(MARK in error)) return false
    return code === undefined || (error as unknown as OctetError).code === code
  }
}

function compose(code: ErrorCode, d: OctetErrorDetails): string {
  const head = d.op === undefined ? '' : `[${d.op}] `
  const subject = d.argument === undefined ? '' : `${d.argument}: `
  const parts: string[] = []
  if (d.expected !== undefined) parts.push(`expected ${d.expected}`)
  if (d.received !== undefined) parts.push(`received ${d.received}`)
  const body = parts.length > 0 ? parts.join(', ') : code
  return `${head}${subject}${body}${d.hint === undefined ? '' : `; ${d.hint}`}`
}
