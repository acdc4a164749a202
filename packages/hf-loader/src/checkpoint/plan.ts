import { formatShape, OctetError, sameShape, type DType, type QuantizedSource, type TensorSource, type WeightSlot } from '@octet-llm/core'
import { listSome, quoteName, showShape } from '../io/names.js'
import { canonicalNames } from './names.js'
import type { Checkpoint } from './open.js'
import { findScales } from './scales.js'

const OP = 'assign'

/** Names of each kind that a report lists before it counts the rest. */
const LISTED = 50

const PLAIN: readonly DType[] = ['f32', 'bf16', 'f16', 'f64']

/** One tensor on its way into a slot. */
export interface PlannedTensor {
  readonly slot: WeightSlot
  readonly source: TensorSource | QuantizedSource
  /** Its place among the checkpoint's shards. */
  readonly shard: number
  readonly byteLength: number
}

export interface Plan {
  /** In file order. */
  readonly tensors: readonly PlannedTensor[]
  readonly totalBytes: number
  /** Tensors of the checkpoint that were passed over on purpose. */
  readonly ignored: readonly string[]
}

export interface PlanOptions {
  /**
   * The model computes its logits with its embedding (see `sharesEmbedding`): a `lm_head.weight` in the files, which repeats
   * it, needs no slot. Default false.
   */
  readonly tied?: boolean
  /** Slots that are filled from another one's tensor where the files have none of their own. */
  readonly copies?: ReadonlyMap<string, string>
}

class Faults {
  readonly missing: string[] = []
  readonly unexpected: string[] = []
  readonly repeated: string[] = []
  readonly shape: string[] = []
  readonly dtype: string[] = []
  readonly scale: string[] = []
  readonly unscaled: string[] = []

  /** One error for all of them. */
  check(dir: string): void {
    const groups: [string, string[]][] = [
      ['missing', this.missing],
      ['unexpected', this.unexpected],
      ['twice under one name', this.repeated],
      ['of the wrong shape', this.shape],
      ['of the wrong type', this.dtype],
      ['with a wrong scale', this.scale],
      ['in FP8 without a scale', this.unscaled],
    ]
    const found = groups.filter(([, names]) => names.length > 0)
    if (found.length === 0) return
    const onlyUnscaled = found.length === 1 && this.unscaled.length > 0
    throw new OctetError(onlyUnscaled ? 'MISSING_SCALE' : 'CHECKPOINT_MISMATCH', {
      op: OP,
      argument: dir,
      expected: 'exactly the tensors of the model',
      received: found.map(([kind, names]) => `${names.length} ${kind} (${listSome(names, LISTED)})`).join('; '),
      hint: onlyUnscaled ? 'fetch all files of the checkpoint: FP8 values mean nothing without their scales' : 'check that config.json belongs to these weights and that all files are there',
    })
  }
}

/**
 * Matches a checkpoint with the slots of a model before a byte is read: names without their multimodal prefixes, FP8
 * weights with their scales.
 * @throws OctetError `CHECKPOINT_MISMATCH` listing every tensor that is missing, unexpected, of the wrong shape or type;
 *   `MISSING_SCALE` when nothing but scales is missing.
 */
export function planAssignment(checkpoint: Checkpoint, slots: readonly WeightSlot[], options: PlanOptions = {}): Plan {
  const faults = new Faults()
  const { byName, ignored } = slotNames(checkpoint, faults)
  const shardOf = new Map(checkpoint.shards.map(({ path }, i) => [path, i]))
  const claimed = new Set<string>()
  const tensors: PlannedTensor[] = []
  for (const slot of slots) {
    const source = byName.get(slot.name) ?? byName.get(options.copies?.get(slot.name) ?? '')
    claimed.add(slot.name)
    if (source === undefined) {
      if (slot.optional !== true) faults.missing.push(slot.name)
      continue
    }
    const fitting = fit(slot, source, byName, claimed, faults)
    if (fitting !== undefined) tensors.push({ slot, source: fitting, shard: shardOf.get(source.path)!, byteLength: bytesOf(fitting) })
  }
  for (const name of byName.keys()) {
    if (claimed.has(name)) continue
    if (isUnused(name, options)) ignored.push(name)
    else faults.unexpected.push(quoteName(name))
  }
  faults.check(checkpoint.dir)
  tensors.sort((a, b) => a.shard - b.shard || dataOf(a.source).offset - dataOf(b.source).offset)
  return { tensors, totalBytes: tensors.reduce((sum, { byteLength }) => sum + byteLength, 0), ignored }
}

/** The tensor that holds a slot's values. */
export function dataOf(source: TensorSource | QuantizedSource): TensorSource {
  return 'data' in source ? source.data : source
}

/** The checkpoint's tensors under the names of slots. */
export function slotNames(checkpoint: Checkpoint, faults?: { repeated: string[] }): { byName: Map<string, TensorSource>; ignored: string[] } {
  const canonical = canonicalNames(checkpoint.sources.keys())
  const byName = new Map<string, TensorSource>()
  const ignored: string[] = []
  for (const [name, source] of checkpoint.sources) {
    const slotName = canonical(name)
    if (slotName === null) ignored.push(name)
    else if (byName.has(slotName)) faults?.repeated.push(`${quoteName(byName.get(slotName)!.name)} and ${quoteName(name)}`)
    else byName.set(slotName, source)
  }
  return { byName, ignored }
}

function fit(slot: WeightSlot, source: TensorSource, byName: ReadonlyMap<string, TensorSource>, claimed: Set<string>, faults: Faults): TensorSource | QuantizedSource | undefined {
  const quantized = source.dtype === 'e4m3' && slot.quantizable === true
  const scales = quantized ? findScales(slot.name, source, byName) : undefined
  if (scales !== undefined && 'claimed' in scales) for (const name of scales.claimed) claimed.add(name)
  if (!sameShape(slot.shape, source.shape)) {
    faults.shape.push(`${slot.name} expected ${formatShape(slot.shape)}, received ${showShape(source.shape)}`)
    return undefined
  }
  if (scales === undefined) {
    if (PLAIN.includes(source.dtype)) return source
    faults.dtype.push(`${slot.name} expected ${PLAIN.join(', ')}${slot.quantizable === true ? ' or e4m3' : ''}, received ${source.dtype}`)
    return undefined
  }
  if ('found' in scales) return scales.found
  if ('wrong' in scales) faults.scale.push(scales.wrong)
  else faults.unscaled.push(scales.missing)
  return undefined
}

/** A head that repeats the embedding, and scales of an FP8 cache, which the cache calibrates for itself. */
function isUnused(name: string, { tied = false }: PlanOptions): boolean {
  return (tied && name === 'lm_head.weight') || /\.self_attn\.(?:[kv]_scale|[kv]_proj\.output_scale)$/.test(name)
}

function bytesOf(source: TensorSource | QuantizedSource): number {
  if (!('data' in source)) return source.byteLength
  return source.data.byteLength + source.scaleInv.byteLength + (source.inputScale?.byteLength ?? 0)
}
