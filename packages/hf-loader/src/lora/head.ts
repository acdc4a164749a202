import { sharesEmbedding, type Checkpoint, type PlanOptions } from '../checkpoint/index.js'
import type { ReadOptions } from '../io/read-tensor.js'
import { EMBEDDING, HEAD, type LoraAdapter } from './adapter.js'

/** How a model's head is filled. */
export interface HeadPlan {
  /** For the model, `planAssignment` and `assign`: whether the head is the embedding, or which tensor fills it beside. */
  readonly plan: PlanOptions & { readonly tied: boolean }
  /** The adapter without what the plan has no slot for. */
  readonly adapter: LoraAdapter | undefined
}

/**
 * Whether a model's head is its embedding, as {@link sharesEmbedding} finds it, and stays so under an adapter: one that trains
 * the head or the embedding parts them, and the other keeps the checkpoint's values, as in peft.
 */
export async function planHead(checkpoint: Checkpoint, config: { readonly tieWordEmbeddings: boolean }, adapter: LoraAdapter | undefined, options: ReadOptions = {}): Promise<HeadPlan> {
  const shared = await sharesEmbedding(checkpoint, config, options)
  if (!shared || adapter === undefined) return { plan: { tied: shared }, adapter }
  if (separates(adapter)) return { plan: { tied: false, copies: new Map([[HEAD, EMBEDDING]]) }, adapter }
  // peft saves a pair that it keeps tied twice.
  const replacements = new Map([...adapter.replacements].filter(([name]) => name !== HEAD))
  return { plan: { tied: true }, adapter: { ...adapter, replacements } }
}

function separates({ config, modules, replacements }: LoraAdapter): boolean {
  if (config.ensureWeightTying) return false
  return modules.has(HEAD) || replacements.has(HEAD) || replacements.has(EMBEDDING)
}
