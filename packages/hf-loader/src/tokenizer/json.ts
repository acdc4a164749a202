/** Checked access to parsed JSON of a tokenizer file. Every function throws `INVALID_TOKENIZER` naming the field. */
import { OctetError, type ErrorCode } from '@octet-llm/core'

export type JsonObject = { readonly [key: string]: unknown }

const MAX_SHOWN = 60

/** A value as a message shows it: short, on one line. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  let text: string
  try {
    text = typeof value === 'string' ? JSON.stringify(value) : (JSON.stringify(value) ?? String(value))
  } catch {
    text = typeof value
  }
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN)}…`
}

export function invalid(argument: string, expected: string, received: string, hint?: string): OctetError {
  return new OctetError('INVALID_TOKENIZER', {
    op: 'loadTokenizer',
    argument,
    expected,
    received,
    ...(hint === undefined ? {} : { hint }),
  })
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function asObject(value: unknown, argument: string): JsonObject {
  if (!isObject(value)) throw invalid(argument, 'an object', shown(value))
  return value
}

export function asArray(value: unknown, argument: string): readonly unknown[] {
  if (!Array.isArray(value)) throw invalid(argument, 'an array', shown(value))
  return value as readonly unknown[]
}

export function asString(value: unknown, argument: string): string {
  if (typeof value !== 'string') throw invalid(argument, 'a string', shown(value))
  return value
}

/** A boolean field that may be absent or null. */
export function asFlag(value: unknown, fallback: boolean, argument: string): boolean {
  if (value === undefined || value === null) return fallback
  if (typeof value !== 'boolean') throw invalid(argument, 'true or false', shown(value))
  return value
}

/** A whole number in [min, max]. */
export function asInteger(value: unknown, min: number, max: number, argument: string): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw invalid(argument, `a whole number in ${min}…${max}`, shown(value))
  }
  return value
}

/** The `type` field that tells which part a component is. */
export function partType(config: JsonObject, argument: string): string {
  return asString(config['type'], `${argument}.type`)
}

export function unsupported(argument: string, type: string, supported: readonly string[]): OctetError {
  return invalid(
    argument,
    `one of ${supported.join(', ')}`,
    shown(type),
    'use a checkpoint whose tokenizer is a byte-level or byte-fallback BPE, as Gemma and Llama have',
  )
}

/** Any error as an OctetError of `code`; OctetErrors pass through. */
export function asOctetError(error: unknown, code: ErrorCode, op: string, argument: string, hint: string): OctetError {
  if (OctetError.is(error)) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new OctetError(code, { op, argument, expected: 'a file that can be used', received: shown(reason), hint, cause: error })
}
