import { sameShape, type TensorSource, type WeightSink, type WeightSlot } from '@octet-llm/core'
import type { ReadOptions } from '../io/read-tensor.js'
import type { Checkpoint } from './open.js'
import { planAssignment, slotNames, type PlanOptions, type PlannedTensor } from './plan.js'

/** Tensors of a shard that a sink may hold at once: enough to overlap a read with a conversion, few enough to stay small. */
const IN_FLIGHT = 4

export interface AssignProgress {
  readonly doneBytes: number
  readonly totalBytes: number
  /** The slot that was filled last. */
  readonly name: string
}

export interface AssignOptions extends PlanOptions, ReadOptions {
  /** Called after each tensor that the sink has taken. */
  readonly onProgress?: ((progress: AssignProgress) => void) | undefined
}

export interface AssignSummary {
  readonly tensors: number
  readonly totalBytes: number
  /** Tensors of the files that no slot asks for, passed over on purpose. */
  readonly ignored: readonly string[]
}

/**
 * Fills the slots of a model from a checkpoint, shard by shard in file order. Everything is matched first, so a
 * checkpoint that does not fit is refused before the sink sees a tensor. At most 4 tensors of one shard are in flight.
 * @throws OctetError `CHECKPOINT_MISMATCH` listing every tensor that is missing, unexpected, of the wrong shape or type;
 *   `MISSING_SCALE`.
 * @throws what the sink throws, or the signal's reason, unchanged, once nothing is in flight any more.
 */
export async function assign(checkpoint: Checkpoint, slots: readonly WeightSlot[], sink: WeightSink, options: AssignOptions = {}): Promise<AssignSummary> {
  const { tensors, totalBytes, ignored } = planAssignment(checkpoint, slots, options)
  let doneBytes = 0
  const deliver = async ({ slot, source, byteLength }: PlannedTensor): Promise<void> => {
    options.signal?.throwIfAborted()
    await sink.accept(slot, source)
    doneBytes += byteLength
    options.onProgress?.({ doneBytes, totalBytes, name: slot.name })
  }
  for (let shard = 0; shard < checkpoint.shards.length; shard++) {
    await runWindow(tensors.filter((tensor) => tensor.shard === shard), deliver)
  }
  return { tensors: tensors.length, totalBytes, ignored }
}

/** Starts items in order, a few at a time; after a failure starts no more, and throws it when the rest has settled. */
async function runWindow<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  let next = 0
  let failure: { readonly error: unknown } | undefined
  const lane = async (): Promise<void> => {
    while (next < items.length && failure === undefined) {
      try {
        await run(items[next++]!)
      } catch (error) {
        failure ??= { error }
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(IN_FLIGHT, items.length) }, lane))
  if (failure !== undefined) throw failure.error
}

/**
 * Whether a model computes its logits with its embedding: its config ties the two, and the files hold no
 * `lm_head.weight` that says otherwise. As transformers 5, a head with values of its own is kept; one that repeats the
 * embedding counts as tied.
 */
export async function sharesEmbedding(checkpoint: Checkpoint, config: { readonly tieWordEmbeddings: boolean }, options: ReadOptions = {}): Promise<boolean> {
  if (!config.tieWordEmbeddings) return false
  const { byName } = slotNames(checkpoint)
  const head = byName.get('lm_head.weight')
  const embedding = byName.get('model.embed_tokens.weight')
  if (head === undefined) return true
  // Without an embedding the checkpoint is incomplete, which `assign` will say.
  if (embedding === undefined) return true
  return sameTensor(checkpoint, head, embedding, options)
}

async function sameTensor(checkpoint: Checkpoint, a: TensorSource, b: TensorSource, options: ReadOptions): Promise<boolean> {
  if (a.dtype !== b.dtype || !sameShape(a.shape, b.shape)) return false
  if (a.path === b.path && a.offset === b.offset) return true
  if (a.strides !== undefined || b.strides !== undefined) {
    return Buffer.compare(await checkpoint.read(a.name, options), await checkpoint.read(b.name, options)) === 0
  }
  const others = checkpoint.chunks(b.name, options)
  try {
    for await (const chunk of checkpoint.chunks(a.name, options)) {
      const other = await others.next()
      if (other.done === true || Buffer.compare(chunk, other.value) !== 0) return false
    }
    return true
  } finally {
    await others.return(undefined)
  }
}
