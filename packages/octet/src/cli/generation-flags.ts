import { type Command, InvalidArgumentError, Option } from 'commander'
import { GENERATION_FIELDS, type FieldSpec, type GenerationField, type GenerationOptions } from '@octet-llm/generation'
import { textList, wholeNumberList } from './values.js'

/** What `--help` says of the flags people reach for; the others are accepted without a line of help. */
const HELP: Partial<Record<GenerationField, string>> = {
  maxNewTokens: 'most new tokens',
  minNewTokens: 'fewest new tokens',
  maxLength: 'most tokens, the prompt included',
  maxTime: 'seconds after which to stop',
  stopStrings: 'texts that end the writing: a,b',
  doSample: 'draw tokens at random',
  temperature: 'flattens (> 1) or sharpens (< 1) the choice',
  topK: 'draw among the N likeliest tokens',
  topP: 'draw among the likeliest tokens of total probability X',
  minP: 'draw among tokens at least X times as likely as the likeliest',
  numBeams: 'beam search with N beams',
  lengthPenalty: 'exponent of the length in a beam score',
  earlyStopping: 'when beam search may stop: true, false or never',
  numReturnSequences: 'sequences for each prompt',
  repetitionPenalty: 'penalty of tokens seen before (1 is none)',
  noRepeatNgramSize: 'never repeat N tokens in a row',
  badWordsIds: 'token sequences never to write, as JSON: [[5,6],[7]]',
  suppressTokens: 'tokens never to write: 5,6',
  eosTokenId: 'tokens that end the writing: 1,107',
  padTokenId: 'token that fills rows that ended',
}

const PLACEHOLDER = { int: 'N', number: 'X', ids: 'IDS', strings: 'TEXTS', earlyStopping: 'WHEN', json: 'JSON', boolean: '' } as const

/** The value a flag's text stands for, before the field's own check. */
function parseText(kind: FieldSpec['kind'], text: string): unknown {
  if (kind === 'int' || kind === 'number') return text.trim() === '' ? text : Number(text)
  if (kind === 'ids') return wholeNumberList(text)
  if (kind === 'strings') return textList(text)
  if (kind === 'earlyStopping') return text === 'true' ? true : text === 'false' ? false : text
  try {
    return JSON.parse(text) as unknown
  } catch {
    throw new InvalidArgumentError('Give JSON.')
  }
}

function parser(spec: FieldSpec): (text: string) => unknown {
  return (text) => {
    const value = parseText(spec.kind, text)
    if (!spec.accepts(value)) {
      // A field for a single id takes a list of one.
      if (Array.isArray(value) && value.length === 1 && spec.accepts(value[0])) return value[0]
      throw new InvalidArgumentError(`Give ${spec.expected}.`)
    }
    return value
  }
}

export const kebabCase = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

/** Adds a flag for every field of GenerationConfig; a boolean has a `--no-` form too. */
export function addGenerationFlags(command: Command): Command {
  for (const [name, spec] of Object.entries(GENERATION_FIELDS) as [GenerationField, FieldSpec][]) {
    const flag = `--${kebabCase(name)}`
    const help = HELP[name]
    const option = spec.kind === 'boolean' ? new Option(flag, help) : new Option(`${flag} <${PLACEHOLDER[spec.kind]}>`, help).argParser(parser(spec))
    // commander takes every `--no-…` for a negation; `--no-repeat-ngram-size` is a name.
    option.negate = false
    command.addOption(help === undefined ? option.hideHelp() : option)
    if (spec.kind === 'boolean') command.addOption(new Option(`--no-${kebabCase(name)}`).hideHelp())
  }
  return command
}

/** The fields that flags set; nothing for a flag that was not given. */
export function readGenerationFlags(options: Readonly<Record<string, unknown>>): GenerationOptions {
  const given = Object.keys(GENERATION_FIELDS).filter((name) => options[name] !== undefined)
  return Object.fromEntries(given.map((name) => [name, options[name]]))
}
