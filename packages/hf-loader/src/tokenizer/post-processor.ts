import { asArray, asFlag, asInteger, asObject, asString, invalid, isObject, partType, shown, unsupported, type JsonObject } from './json.js'
import { MAX_TOKEN_ID } from './model.js'

/** Ids around the text's own, for `addSpecialTokens`. */
export interface PostProcessor {
  readonly before: readonly number[]
  readonly after: readonly number[]
}

const SUPPORTED = ['Sequence', 'ByteLevel', 'TemplateProcessing']

/**
 * The `post_processor` of tokenizer.json for a single text. `add_bos_token` or `add_eos_token` in the config replaces
 * it, as in transformers 5 (Llama 2 and Gemma name both; Llama 3 names neither).
 */
export function buildPostProcessor(
  value: unknown,
  config: JsonObject,
  ids: { readonly bos: number | null; readonly eos: number | null },
): PostProcessor {
  const fromFile = readPostProcessor(value, 'post_processor')
  if (config['add_bos_token'] === undefined && config['add_eos_token'] === undefined) return fromFile
  const addBos = asFlag(config['add_bos_token'], ids.bos !== null && fromFile.before.includes(ids.bos), 'add_bos_token')
  const addEos = asFlag(config['add_eos_token'], ids.eos !== null && fromFile.after.includes(ids.eos), 'add_eos_token')
  return {
    before: addBos && ids.bos !== null ? [ids.bos] : [],
    after: addEos && ids.eos !== null ? [ids.eos] : [],
  }
}

function readPostProcessor(value: unknown, argument: string): PostProcessor {
  if (value === undefined || value === null) return { before: [], after: [] }
  const config = asObject(value, argument)
  const type = partType(config, argument)
  switch (type) {
    // Only offsets change.
    case 'ByteLevel':
      return { before: [], after: [] }
    case 'Sequence': {
      const parts = asArray(config['processors'], `${argument}.processors`).map((part, i) =>
        readPostProcessor(part, `${argument}.processors[${i}]`),
      )
      // Each wraps what the ones before it made.
      return parts.reduce((inner, outer) => ({
        before: [...outer.before, ...inner.before],
        after: [...inner.after, ...outer.after],
      }), { before: [], after: [] })
    }
    case 'TemplateProcessing':
      return readTemplate(config, argument)
    default:
      throw unsupported(`${argument}.type`, type, SUPPORTED)
  }
}

function readTemplate(config: JsonObject, argument: string): PostProcessor {
  const special = asObject(config['special_tokens'], `${argument}.special_tokens`)
  const before: number[] = []
  const after: number[] = []
  let sequences = 0
  asArray(config['single'], `${argument}.single`).forEach((item, i) => {
    const where = `${argument}.single[${i}]`
    const part = asObject(item, where)
    if (isObject(part['Sequence'])) {
      sequences++
      return
    }
    const name = asString(asObject(part['SpecialToken'], `${where}.SpecialToken`)['id'], `${where}.SpecialToken.id`)
    if (!Object.hasOwn(special, name)) throw invalid(where, 'a name in special_tokens', shown(name))
    const entry = asObject(special[name], `${argument}.special_tokens.${name}`)
    const ids = asArray(entry['ids'], `${argument}.special_tokens.${name}.ids`)
    for (const id of ids) (sequences === 0 ? before : after).push(asInteger(id, 0, MAX_TOKEN_ID, `${argument}.special_tokens.${name}.ids`))
  })
  if (sequences !== 1) throw invalid(`${argument}.single`, 'the text exactly once', `${sequences} times`)
  return { before, after }
}
