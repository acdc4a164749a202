/** Modules of a multimodal Gemma 3 that its text model has no use for. */
const VISION = /^(?:model\.)?(?:vision_tower|multi_modal_projector)\./

/** Prefixes of the text model inside a multimodal one: transformers 5, then 4. */
const NESTED: readonly (readonly [prefix: string, replacement: string])[] = [
  ['model.language_model.', 'model.'],
  ['language_model.model.', 'model.'],
  ['language_model.lm_head.', 'lm_head.'],
]

/** A model saved without its head leaves out the prefix of the decoder. */
const BARE = /^(?:embed_tokens|layers|norm)\./

/** Tensors that every reader computes for itself: old Llama files hold them. */
export function isRecomputed(name: string): boolean {
  return name.endsWith('rotary_emb.inv_freq')
}

/**
 * A function from the names of a checkpoint to those of a text model's slots: `model.layers.0…`, `lm_head.weight`. Null for
 * tensors that no text model needs.
 * @param names all names of the checkpoint: vision tensors are passed over only beside a nested language model.
 */
export function canonicalNames(names: Iterable<string>): (name: string) => string | null {
  let nested = false
  let bare = true
  for (const name of names) {
    nested ||= NESTED.some(([prefix]) => name.startsWith(prefix))
    bare &&= BARE.test(name) || isRecomputed(name)
  }
  return (name) => {
    if (isRecomputed(name) || (nested && VISION.test(name))) return null
    if (bare) return `model.${name}`
    const prefix = NESTED.find(([from]) => name.startsWith(from))
    return prefix === undefined ? name : prefix[1] + name.slice(prefix[0].length)
  }
}
