import { OctetError, formatShape, itemSize, numel, type DType, type Shape } from '@octet-llm/core'
import { cast, copy, Tensor } from '@octet-llm/kernels'

import type { Module, StateEntry } from './module.js'

/** A host tensor of a state dict: plain bytes, row-major, little endian. */
export interface StateTensor {
  readonly dtype: DType
  readonly shape: Shape
  readonly data: Uint8Array
}

/** Names to tensors, as TransformerEngine's `state_dict()` names them. */
export type State = ReadonlyMap<string, StateTensor>

/**
 * Reads a module's parameters back under TransformerEngine's names, in their storage dtypes.
 * @throws OctetError `INVALID_ARGUMENT` for FP8 weights, which have codes and scales instead: read `weight.quantized()`
 */
export async function exportState(module: Module): Promise<Map<string, StateTensor>> {
  const state = new Map<string, StateTensor>()
  for (const entry of module.stateEntries()) {
    const tensor = entry.weight.view(entry.segment)
    const data = await tensor.toBytes()
    state.set(entry.name, { dtype: tensor.dtype, shape: [...tensor.shape], data: permuteRows(data, tensor.shape, entry.rowOrder) })
  }
  return state
}

/**
 * Fills a module's parameters from a state of TransformerEngine's names. Floating dtypes are converted to the storage's;
 * FP8 weights are quantized, each segment by itself.
 * @throws OctetError `CHECKPOINT_MISMATCH` listing every missing, extra, mis-shaped or mis-typed entry; nothing has changed then
 */
export function importState(module: Module, state: State): void {
  const entries = module.stateEntries()
  const problems = entries.flatMap((entry) => problemOf(entry, state.get(entry.name)))
  const known = new Set(entries.map((entry) => entry.name))
  for (const name of state.keys()) {
    // TransformerEngine saves recipe state beside the parameters; it is bytes of its own format, not a parameter.
    if (!known.has(name) && !name.endsWith('_extra_state')) problems.push(`${name}: not a parameter of this module`)
  }
  if (problems.length > 0) {
    throw new OctetError('CHECKPOINT_MISMATCH', { op: 'importState', message: `[importState] ${problems.length} entries do not fit:\n  ${problems.join('\n  ')}` })
  }
  for (const entry of entries) load(entry, state.get(entry.name)!)
}

function problemOf(entry: StateEntry, source: StateTensor | undefined): string[] {
  if (source === undefined) return [`${entry.name}: missing`]
  const want = entry.weight.shapeOf(entry.segment)
  if (formatShape(source.shape) !== formatShape(want)) return [`${entry.name}: expected ${formatShape(want)}, received ${formatShape(source.shape)}`]
  if (!['f32', 'bf16', 'f16'].includes(source.dtype)) return [`${entry.name}: expected f32, bf16 or f16, received ${source.dtype}`]
  const bytes = numel(source.shape) * itemSize(source.dtype)
  return source.data.byteLength === bytes ? [] : [`${entry.name}: expected ${bytes} bytes, received ${source.data.byteLength}`]
}

function load(entry: StateEntry, source: StateTensor): void {
  const { weight, segment } = entry
  const inverse = entry.rowOrder === undefined ? undefined : invert(entry.rowOrder)
  const data = permuteRows(source.data, source.shape, inverse)
  const staged = Tensor.fromBytes(data, { shape: source.shape, dtype: source.dtype as 'f32', device: weight.device })
  if (weight.rule !== undefined) {
    weight.quantizeFrom(staged, segment)
    staged.dispose()
    return
  }
  const target = weight.view(segment)
  if (staged.dtype === target.dtype) copy({ x: staged, out: target })
  else cast({ x: staged, out: target })
  staged.dispose()
}

/** Row i of the result is row `order[i]` of `data`. */
function permuteRows(data: Uint8Array, shape: Shape, order: Int32Array | undefined): Uint8Array {
  if (order === undefined) return data
  const rowBytes = data.byteLength / shape[0]!
  const result = new Uint8Array(data.byteLength)
  for (const [to, from] of order.entries()) result.set(data.subarray(from * rowBytes, (from + 1) * rowBytes), to * rowBytes)
  return result
}

function invert(order: Int32Array): Int32Array {
  const result = new Int32Array(order.length)
  for (const [i, row] of order.entries()) result[row] = i
  return result
}
