import { asArray, asFlag, asObject, asString, partType, shown, invalid, unsupported, type JsonObject } from './json.js'
import { ByteLevelPreTokenizer } from './library.js'
import { compilePattern, findSpans, type Span } from './pattern.js'

/**
 * Cuts pieces into smaller ones. `atStart` tells that the first piece begins where the user's text begins, which
 * Metaspace's `first` scheme asks for.
 */
export type PreTokenize = (pieces: readonly string[], atStart: boolean) => string[]

const SUPPORTED = ['Sequence', 'Split', 'ByteLevel', 'Metaspace', 'Digits']
const BEHAVIORS = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const
type Behavior = (typeof BEHAVIORS)[number]

/** GPT-2's word pattern with Unicode white space, where JavaScript's `\s` takes U+FEFF and misses U+0085. */
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu

/** The `pre_tokenizer` of tokenizer.json as one function; null keeps a text whole. */
export function buildPreTokenizer(value: unknown, argument = 'pre_tokenizer'): PreTokenize {
  if (value === undefined || value === null) return (pieces) => [...pieces]
  const config = asObject(value, argument)
  const type = partType(config, argument)
  switch (type) {
    case 'Sequence': {
      const steps = asArray(config['pretokenizers'], `${argument}.pretokenizers`).map((step, i) =>
        buildPreTokenizer(step, `${argument}.pretokenizers[${i}]`),
      )
      return (pieces, atStart) => steps.reduce<readonly string[]>((current, step) => step(current, atStart), pieces) as string[]
    }
    case 'Split':
      return buildSplit(config, argument)
    case 'ByteLevel':
      return buildByteLevel(config, argument)
    case 'Metaspace':
      return buildMetaspace(config, argument)
    case 'Digits': {
      const each = asFlag(config['individual_digits'], false, `${argument}.individual_digits`)
      return eachPiece((text) => cut(text, findSpans(text, /\p{N}/gu), each ? 'Isolated' : 'Contiguous'))
    }
    default:
      throw unsupported(`${argument}.type`, type, SUPPORTED)
  }
}

function eachPiece(split: (text: string) => string[]): PreTokenize {
  return (pieces) => pieces.flatMap(split)
}

function buildSplit(config: JsonObject, argument: string): PreTokenize {
  const pattern = compilePattern(config['pattern'], `${argument}.pattern`)
  const behavior = asString(config['behavior'], `${argument}.behavior`)
  const known = BEHAVIORS.find((name) => name.toLowerCase() === behavior.toLowerCase())
  if (known === undefined) throw invalid(`${argument}.behavior`, `one of ${BEHAVIORS.join(', ')}`, shown(behavior))
  const invert = asFlag(config['invert'], false, `${argument}.invert`)
  return eachPiece((text) => {
    const spans = findSpans(text, pattern)
    return cut(text, invert ? spans.map((span) => ({ ...span, match: !span.match })) : spans, known)
  })
}

/** What happens to the matches of a split: the five behaviours of the Rust library. */
export function cut(text: string, spans: readonly Span[], behavior: Behavior): string[] {
  const kept: { start: number; end: number }[] = []
  if (behavior === 'MergedWithNext') {
    let follows = false
    for (const span of [...spans].reverse()) {
      const next = kept[0]
      if (span.match && !follows && next !== undefined) next.start = span.start
      else kept.unshift({ start: span.start, end: span.end })
      follows = span.match
    }
  } else {
    let previous: boolean | null = null
    for (const span of spans) {
      const last = kept.at(-1)
      const joins =
        (behavior === 'MergedWithPrevious' && span.match && previous !== true) ||
        (behavior === 'Contiguous' && span.match === previous)
      if (behavior !== 'Removed' || !span.match) {
        if (joins && last !== undefined) last.end = span.end
        else kept.push({ start: span.start, end: span.end })
      }
      previous = span.match
    }
  }
  return kept.map(({ start, end }) => text.slice(start, end))
}

function buildByteLevel(config: JsonObject, argument: string): PreTokenize {
  const prefixSpace = asFlag(config['add_prefix_space'], true, `${argument}.add_prefix_space`)
  const words = asFlag(config['use_regex'], true, `${argument}.use_regex`)
  const bytes = new ByteLevelPreTokenizer({ type: 'ByteLevel', add_prefix_space: false, use_regex: false })
  return eachPiece((text) => {
    const prefixed = prefixSpace && !text.startsWith(' ') ? ` ${text}` : text
    const parts = words ? cut(prefixed, findSpans(prefixed, WORDS), 'Isolated') : [prefixed]
    return parts.flatMap((part) => bytes.pre_tokenize_text(part))
  })
}

function buildMetaspace(config: JsonObject, argument: string): PreTokenize {
  const mark = asString(config['replacement'] ?? '▁', `${argument}.replacement`)
  const legacy = asFlag(config['add_prefix_space'], true, `${argument}.add_prefix_space`)
  const scheme = asString(config['prepend_scheme'] ?? (legacy ? 'always' : 'never'), `${argument}.prepend_scheme`)
  if (!['always', 'first', 'never'].includes(scheme)) {
    throw invalid(`${argument}.prepend_scheme`, 'always, first or never', shown(scheme))
  }
  if ([...mark].length !== 1) throw invalid(`${argument}.replacement`, 'one character', shown(mark))
  const split = asFlag(config['split'], true, `${argument}.split`)
  return (pieces, atStart) =>
    pieces.flatMap((text, i) => {
      let marked = text.replaceAll(' ', mark)
      const wanted = scheme === 'always' || (scheme === 'first' && atStart && i === 0)
      if (wanted && !marked.startsWith(mark)) marked = mark + marked
      return split ? cut(marked, findSpans(marked, mark), 'MergedWithNext') : [marked]
    })
}
