import { asArray, asInteger, asObject, asString, invalid, partType, shown, unsupported, type JsonObject } from './json.js'
import { buildReplace } from './normalizer.js'

/** A chain of decoder parts in the one form that Octet runs. */
export type Decoder =
  | { readonly kind: 'byteLevel' }
  | {
      readonly kind: 'text'
      /** What each token becomes on its own, before byte fallback. */
      readonly transform: (token: string) => string
      readonly byteFallback: boolean
      /** Applied to the whole text at the end: `Strip` after `Fuse`. */
      readonly trim: { readonly content: string; readonly start: number; readonly stop: number }
    }

const SUPPORTED = ['Sequence', 'ByteLevel', 'ByteFallback', 'Fuse', 'Replace', 'Strip']
const MAX_STRIP = 1024

/**
 * The `decoder` of tokenizer.json. Supported are `ByteLevel`, and chains of per-token `Replace` and `Strip`, then
 * `ByteFallback`, then `Fuse`, then one `Strip`: everything that Gemma and Llama write.
 */
export function buildDecoder(value: unknown): Decoder {
  const parts = flatten(value, 'decoder')
  if (parts.length === 0) throw invalid('decoder', `a decoder of ${SUPPORTED.join(', ')}`, 'none')
  if (parts.some(({ type }) => type === 'ByteLevel')) {
    const first = parts.find(({ type }) => type !== 'ByteLevel' && type !== 'Fuse')
    if (first !== undefined) throw invalid(first.argument, 'no further part beside ByteLevel', shown(first.type))
    return { kind: 'byteLevel' }
  }

  const transforms: ((token: string) => string)[] = []
  let byteFallback = false
  let fused = false
  let trim: { content: string; start: number; stop: number } | null = null
  for (const { type, config, argument } of parts) {
    if (type === 'Fuse') {
      fused = true
    } else if (type === 'Strip' && fused && trim === null) {
      trim = readStrip(config, argument)
    } else if (fused || byteFallback) {
      throw invalid(argument, 'an order of Replace or Strip, ByteFallback, Fuse, Strip', `${type} after ${fused ? 'Fuse' : 'ByteFallback'}`)
    } else if (type === 'ByteFallback') {
      byteFallback = true
    } else {
      transforms.push(type === 'Replace' ? buildReplace(config['pattern'], config['content'], argument) : stripper(config, argument))
    }
  }
  return {
    kind: 'text',
    transform: (token) => transforms.reduce((text, step) => step(text), token),
    byteFallback,
    trim: trim ?? { content: '', start: 0, stop: 0 },
  }
}

interface Part {
  readonly type: string
  readonly config: JsonObject
  readonly argument: string
}

function flatten(value: unknown, argument: string): Part[] {
  if (value === undefined || value === null) return []
  const config = asObject(value, argument)
  const type = partType(config, argument)
  if (!SUPPORTED.includes(type)) throw unsupported(`${argument}.type`, type, SUPPORTED)
  if (type !== 'Sequence') return [{ type, config, argument }]
  return asArray(config['decoders'], `${argument}.decoders`).flatMap((part, i) => flatten(part, `${argument}.decoders[${i}]`))
}

function readStrip(config: JsonObject, argument: string): { content: string; start: number; stop: number } {
  const content = asString(config['content'], `${argument}.content`)
  if ([...content].length !== 1) throw invalid(`${argument}.content`, 'one character', shown(content))
  return {
    content,
    start: asInteger(config['start'], 0, MAX_STRIP, `${argument}.start`),
    stop: asInteger(config['stop'], 0, MAX_STRIP, `${argument}.stop`),
  }
}

function stripper(config: JsonObject, argument: string): (token: string) => string {
  const trim = readStrip(config, argument)
  return (token) => trimText(token, trim)
}

/** Cuts at most `start` and `stop` copies of one character from the two ends. */
export function trimText(text: string, trim: { readonly content: string; readonly start: number; readonly stop: number }): string {
  const { content } = trim
  if (content === '') return text
  let begin = 0
  let end = text.length
  for (let i = 0; i < trim.start && begin < end && text.startsWith(content, begin); i++) begin += content.length
  for (let i = 0; i < trim.stop && begin < end && text.startsWith(content, end - content.length); i++) end -= content.length
  return text.slice(begin, end)
}
