import { asArray, asString, isObject, type JsonObject } from './json.js'

/** The attributes that transformers calls special tokens, in its order. */
const NAMED = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'] as const

export type SpecialName = (typeof NAMED)[number]

export interface SpecialNames {
  /** `bos_token` → `<bos>`, and further names that `extra_special_tokens` gives; what a chat template reads. */
  readonly named: ReadonlyMap<string, string>
  /** Every special token once: the named ones, then the extra ones without a name. */
  readonly all: readonly string[]
}

/**
 * The special tokens that the config names. A value is a string or an object with `content`; `special_tokens_map.json`
 * fills what `tokenizer_config.json` leaves out.
 */
export function readSpecialNames(config: JsonObject, specialMap: JsonObject): SpecialNames {
  const named = new Map<string, string>()
  const all = new Set<string>()
  for (const name of NAMED) {
    const content = tokenContent(Object.hasOwn(config, name) ? config[name] : specialMap[name], name)
    if (content !== null) named.set(name, content)
  }
  for (const content of named.values()) all.add(content)
  for (const field of ['additional_special_tokens', 'extra_special_tokens']) {
    const value = config[field] ?? specialMap[field]
    if (value === undefined || value === null) continue
    if (isObject(value)) {
      // transformers 4.48+ also takes a mapping: {"image_token": "<image>"}.
      for (const [name, entry] of Object.entries(value)) {
        const content = tokenContent(entry, `${field}.${name}`)
        if (content === null) continue
        if (!named.has(name)) named.set(name, content)
        all.add(content)
      }
      continue
    }
    asArray(value, field).forEach((entry, i) => {
      const content = tokenContent(entry, `${field}[${i}]`)
      if (content !== null) all.add(content)
    })
  }
  all.delete('')
  return { named, all: [...all] }
}

/** A token name as the config writes it: `"<bos>"` or `{"content": "<bos>", …}`; null where absent. */
function tokenContent(value: unknown, argument: string): string | null {
  if (value === undefined || value === null) return null
  if (isObject(value)) return asString(value['content'], `${argument}.content`)
  return asString(value, argument)
}
