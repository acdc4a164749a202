import { asArray, asObject, asString, invalid, partType, shown, unsupported } from './json.js'
import { compilePattern } from './pattern.js'

export type Normalize = (text: string) => string

const SUPPORTED = ['Sequence', 'Prepend', 'Replace', 'NFC', 'NFD', 'NFKC', 'NFKD']

/** The `normalizer` of tokenizer.json as one function; null is the identity. */
export function buildNormalizer(value: unknown, argument = 'normalizer'): Normalize {
  if (value === undefined || value === null) return (text) => text
  const config = asObject(value, argument)
  const type = partType(config, argument)
  switch (type) {
    case 'Sequence': {
      const steps = asArray(config['normalizers'], `${argument}.normalizers`).map((step, i) =>
        buildNormalizer(step, `${argument}.normalizers[${i}]`),
      )
      return (text) => steps.reduce((current, step) => step(current), text)
    }
    case 'Prepend': {
      const prefix = asString(config['prepend'], `${argument}.prepend`)
      return (text) => (text === '' ? text : prefix + text)
    }
    case 'Replace':
      return buildReplace(config['pattern'], config['content'], argument)
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return (text) => text.normalize(type)
    default:
      throw unsupported(`${argument}.type`, type, SUPPORTED)
  }
}

/** Replaces every match by `content`, taken literally: `$&` in it means nothing (in JavaScript's replace it would). */
export function buildReplace(pattern: unknown, content: unknown, argument: string): (text: string) => string {
  const compiled = compilePattern(pattern, `${argument}.pattern`)
  const replacement = asString(content, `${argument}.content`)
  if (compiled === null) return (text) => text
  if (typeof compiled === 'string') return (text) => text.split(compiled).join(replacement)
  if (compiled.test('')) throw invalid(`${argument}.pattern`, 'a pattern that matches at least one character', shown(pattern))
  return (text) => text.replace(compiled, () => replacement)
}
