import { OctetError } from '@octet-llm/core'
import { isJsonObject, member, type JsonObject } from '../io/json-file.js'
import { quoteName } from '../io/names.js'

interface Range {
  readonly min?: number
  readonly max?: number
  /** `min` itself is out of range. */
  readonly above?: boolean
}

/**
 * Typed reads from a configuration object. Every refusal is one INVALID_CONFIG error that names the field; a null counts
 * as an absent field, as transformers writes it.
 */
export class Fields {
  constructor(
    readonly op: string,
    /** The file, for messages. */
    readonly file: string,
    readonly object: JsonObject,
    /** Where the object lies in the file: `text_config.`. */
    private readonly prefix = '',
  ) {}

  /** The value of a field; undefined when it is absent or null. */
  value(key: string): unknown {
    return member(this.object, key) ?? undefined
  }

  /** True when the field is there with the value null. */
  isNull(key: string): boolean {
    return member(this.object, key) === null
  }

  integer(key: string, range: Range): number | undefined {
    return this.numeric(key, range, Number.isSafeInteger, 'a whole number')
  }

  number(key: string, range: Range = {}): number | undefined {
    return this.numeric(key, range, Number.isFinite, 'a number')
  }

  /** @throws OctetError `INVALID_CONFIG` also when it is absent. */
  requiredNumber(key: string, range: Range = {}): number {
    return this.number(key, range) ?? this.fail(key, 'a number', 'nothing')
  }

  boolean(key: string): boolean | undefined {
    const value = this.value(key)
    if (value === undefined || typeof value === 'boolean') return value
    return this.fail(key, 'true or false', show(value))
  }

  string(key: string): string | undefined {
    const value = this.value(key)
    if (value === undefined || typeof value === 'string') return value
    return this.fail(key, 'a string', show(value))
  }

  /** One of the keys of `choices`. */
  choice<T>(key: string, choices: ReadonlyMap<string, T>): T | undefined {
    const name = this.string(key)
    if (name === undefined) return undefined
    const chosen = choices.get(name)
    return chosen ?? this.fail(key, [...choices.keys()].join(' | '), quoteName(name))
  }

  child(key: string): Fields | undefined {
    const value = this.value(key)
    if (value === undefined) return undefined
    if (!isJsonObject(value)) return this.fail(key, 'an object', show(value))
    return new Fields(this.op, this.file, value, `${this.prefix}${key}.`)
  }

  list<T>(key: string, what: string, accept: (item: unknown) => item is T): readonly T[] | undefined {
    const value = this.value(key)
    if (value === undefined) return undefined
    if (!Array.isArray(value)) return this.fail(key, `a list of ${what}`, show(value))
    const bad = value.findIndex((item) => !accept(item))
    if (bad >= 0) return this.fail(key, `a list of ${what}`, `${show(value[bad])} at ${bad}`)
    return value as readonly T[]
  }

  strings(key: string): readonly string[] | undefined {
    return this.list(key, 'strings', (item) => typeof item === 'string')
  }

  /** A token id; null stands for none, as -1 does in the oldest Llama files. */
  tokenId(key: string): number | null | undefined {
    if (this.isNull(key) || this.value(key) === -1) return null
    const value = this.value(key)
    if (value === undefined || isTokenId(value)) return value
    return this.fail(key, 'a token id', show(value))
  }

  /** One token id or a list of them. */
  tokenIds(key: string): readonly number[] | undefined {
    if (this.isNull(key)) return []
    const value = this.value(key)
    if (isTokenId(value)) return [value]
    return this.list(key, 'token ids', isTokenId)
  }

  fail(key: string, expected: string, received: string): never {
    throw new OctetError('INVALID_CONFIG', { op: this.op, argument: `${this.file}: ${this.prefix}${key}`, expected, received })
  }

  private numeric(key: string, { min = -Infinity, max = Infinity, above = false }: Range, accept: (value: number) => boolean, what: string): number | undefined {
    const value = this.value(key)
    if (value === undefined) return undefined
    const fits = typeof value === 'number' && accept(value) && value <= max && (above ? value > min : value >= min)
    if (fits) return value
    const bounds = [Number.isFinite(min) ? (above ? `above ${min}` : `of at least ${min}`) : '', Number.isFinite(max) ? `up to ${max}` : '']
    return this.fail(key, [what, ...bounds.filter((bound) => bound !== '')].join(' '), show(value))
  }
}

/** Ids fit in an int32, as they do on a device. */
export function isTokenId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31
}

/** A value for a message, short whatever it is. */
export function show(value: unknown): string {
  if (typeof value === 'string') return quoteName(value)
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (typeof value === 'object' && value !== null) return 'an object'
  return String(value)
}
