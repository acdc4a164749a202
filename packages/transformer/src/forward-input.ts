import { OctetError, formatShape, numel } from '@octet-llm/core'
import { disposeAll, scatterRows, Tensor, type Device } from '@octet-llm/kernels'

import type { ForwardInput } from './causal-lm.js'
import type { TokenRanges } from './context.js'
import { indexArray } from './index-arrays.js'
import type { TokenRun } from './rotary-position-embedding.js'

/** A batch without its pads, ready for the layers. */
export interface PackedInput {
  readonly batch: number
  readonly width: number
  /** T: tokens that are not pads. */
  readonly count: number
  /** i32 [T] */
  readonly tokens: Tensor
  /** i32 [T] */
  readonly positions: Tensor
  /** i32 [T]: where each token stands in [B * S]. */
  readonly index: Tensor
  readonly ranges: TokenRanges
  readonly runs: readonly TokenRun[]
  dispose(): void
}

/**
 * Drops the pads of a batch. A pad anywhere in a row is left out, and positions count tokens only, so padding never
 * changes a token's result. The caller's arrays are read, not kept.
 * @throws OctetError `SHAPE_MISMATCH` for rows of unequal length or a mask of another shape, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`
 */
export function packInput(device: Device, input: ForwardInput): PackedInput {
  const { inputIds, attentionMask } = input
  const [batch, width] = inputIds instanceof Tensor ? tensorSize(inputIds) : arraySize(inputIds)
  checkMask(attentionMask, batch, width)
  const kept = Array.from({ length: batch }, (_, row) => {
    const columns = Array.from({ length: width }, (_, i) => i)
    const mask = attentionMask?.[row]
    return mask === undefined ? columns : columns.filter((i) => mask[i])
  })
  const temporary: Tensor[] = []
  try {
    return pack(device, inputIds, [batch, width], kept, temporary)
  } catch (error) {
    disposeAll(temporary)
    throw error
  }
}

/** @param kept columns of each row that are tokens */
function pack(device: Device, inputIds: ForwardInput['inputIds'], [batch, width]: readonly [number, number], kept: readonly (readonly number[])[], temporary: Tensor[]): PackedInput {
  const i32 = (data: number[]) => indexArray(device, data, temporary)
  const lens = kept.map((columns) => columns.length)
  const count = lens.reduce((sum, n) => sum + n, 0)
  const starts = lens.map((_, row) => lens.slice(0, row).reduce((sum, n) => sum + n, 0))
  const index = i32(kept.flatMap((columns, row) => columns.map((column) => row * width + column)))
  const ids = inputIds instanceof Tensor ? deviceIds(inputIds, count, temporary) : i32(kept.flatMap((columns, row) => columns.map((column) => inputIds[row]![column]!)))
  const ranges = { starts: i32(starts), lens: i32(lens) }
  const positions = i32(kept.flatMap((columns) => columns.map((_, position) => position)))
  return {
    batch,
    width,
    count,
    tokens: ids,
    positions,
    index,
    ranges,
    runs: lens.map((n) => ({ begin: 0, count: n })),
    dispose: () => disposeAll(temporary),
  }
}

/** Packed rows at their places in the batch, pads zero. @param x [T, D] @returns [B, S, D], a new tensor */
export function unpack(x: Tensor, packed: PackedInput): Tensor {
  const { batch, width } = packed
  const full = Tensor.zeros([batch, width, x.shape[1]!], { dtype: x.dtype, device: x.device })
  const flat = full.view([batch * width, x.shape[1]!])
  scatterRows({ x, rows: packed.index, out: flat })
  flat.dispose()
  return full
}

function deviceIds(ids: Tensor, count: number, temporary: Tensor[]): Tensor {
  if (count !== ids.shape[0]! * ids.shape[1]!) {
    throw new OctetError('INVALID_ARGUMENT', { op: 'forward', argument: 'inputIds', expected: 'arrays on the host when attentionMask leaves tokens out', received: 'a tensor' })
  }
  const view = ids.view([count])
  temporary.push(view)
  return view
}

function tensorSize(ids: Tensor): [number, number] {
  if (ids.dtype !== 'i32') throw new OctetError('DTYPE_MISMATCH', { op: 'forward', argument: 'inputIds', expected: 'i32', received: ids.dtype })
  if (ids.shape.length !== 2) throw new OctetError('SHAPE_MISMATCH', { op: 'forward', argument: 'inputIds', expected: '[B, S]', received: formatShape(ids.shape) })
  return [ids.shape[0]!, ids.shape[1]!]
}

function arraySize(rows: readonly ArrayLike<number>[]): [number, number] {
  const width = rows[0]?.length ?? 0
  const uneven = rows.findIndex((row) => row.length !== width)
  if (uneven >= 0) {
    throw new OctetError('SHAPE_MISMATCH', { op: 'forward', argument: `inputIds[${uneven}]`, expected: `${width} ids as in row 0`, received: String(rows[uneven]!.length), hint: 'pad the shorter rows and pass attentionMask' })
  }
  return [rows.length, width]
}

function checkMask(mask: ForwardInput['attentionMask'], batch: number, width: number): void {
  if (mask === undefined) return
  const fits = mask.length === batch && mask.every((row) => row.length === width)
  if (!fits) throw new OctetError('SHAPE_MISMATCH', { op: 'forward', argument: 'attentionMask', expected: `[${batch}][${width}]`, received: `[${mask.length}][${mask.map((row) => row.length).join(' or ')}]` })
}

/** @param expected tokens that preStep announced @throws OctetError `DTYPE_MISMATCH`, `SHAPE_MISMATCH` */
export function checkStepTokens(tokens: Tensor, expected: number): void {
  if (tokens.dtype !== 'i32') throw new OctetError('DTYPE_MISMATCH', { op: 'step', argument: 'tokens', expected: 'i32', received: tokens.dtype })
  if (tokens.shape.length === 1 && numel(tokens.shape) === expected) return
  throw new OctetError('SHAPE_MISMATCH', { op: 'step', argument: 'tokens', expected: `[${expected}] as preStep announced`, received: formatShape(tokens.shape) })
}
