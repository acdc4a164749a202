import { OctetError, formatShape, type Shape } from '@octet-llm/core'
import { gatherRows, scatterRows, Tensor } from '@octet-llm/kernels'
import type { QkvFormat } from '@octet-llm/kv-cache'

import type { ForwardContext, LayerContext } from './context.js'
import { indexArray } from './index-arrays.js'
import { checkMaskType, checkWindow, type AttnMaskType } from './mask.js'
import type { TokenRun } from './rotary-position-embedding.js'
import { Workspace } from './workspace.js'

/** Sequences as they lie in x (before packing) and in the packed tokens. */
interface Plan {
  /** Packed token t is row index[t] of x; absent when x lies packed already. */
  readonly index?: Int32Array
  /** First packed token, position of the first token, and number of tokens of each sequence. */
  readonly sequences: readonly (TokenRun & { readonly start: number })[]
  readonly tokens: number
}

/**
 * Runs `body` over the tokens of each x as [T, width] with the layout settled, and gives its result the layout of x again.
 * Pads that a packed layout leaves out come back as zeros.
 * @param xs one or more of the same leading axes: `bshd` [B, S, width], `sbhd` [S, B, width] or `thd` [T, width]
 * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT`
 */
export function withTokens(
  op: string,
  xs: readonly [Tensor, ...Tensor[]],
  format: QkvFormat,
  maskType: AttnMaskType,
  ctx: ForwardContext,
  body: (tokens: readonly Tensor[], ctx: LayerContext) => Tensor,
): Tensor {
  const x = xs[0]
  checkMaskType(op, maskType)
  if (ctx.windowSize !== undefined) checkWindow(op, ctx.windowSize)
  checkLeading(op, xs, format)
  const plan = ctx.inferenceParams === undefined ? densePlan(op, x, format, maskType, ctx) : cachedPlan(op, x, format, ctx)
  const temporary: Tensor[] = []
  const temp = (t: Tensor) => {
    temporary.push(t)
    return t
  }
  const i32 = (data: ArrayLike<number>) => indexArray(x.device, data, temporary)
  const workspace = ctx.workspace ?? new Workspace(x.device)
  try {
    const index = plan.index === undefined ? undefined : i32(plan.index)
    const tokens = xs.map((t) => {
      const flat = temp(t.view([leading(t.shape), t.shape.at(-1)!]))
      return index === undefined ? flat : temp(gatherRows({ x: flat, rows: index }))
    })
    const result = temp(
      body(tokens, {
        workspace,
        ...layerFields(ctx, plan, i32, temp),
        ...(ctx.selfAttnMaskType === undefined ? {} : { selfAttnMaskType: ctx.selfAttnMaskType }),
        ...(ctx.windowSize === undefined ? {} : { windowSize: ctx.windowSize }),
        ...(ctx.fp8 === undefined ? {} : { fp8: ctx.fp8 }),
      }),
    )
    return restore(result, x, index)
  } finally {
    for (const t of temporary) t.dispose()
    if (ctx.workspace === undefined) workspace.dispose()
  }
}

function layerFields(
  ctx: ForwardContext,
  plan: Plan,
  i32: (data: ArrayLike<number>) => Tensor,
  temp: (t: Tensor) => Tensor,
): Pick<LayerContext, 'inferenceParams' | 'ranges' | 'rope'> {
  const params = ctx.inferenceParams
  const positions = () => {
    if (params !== undefined) return params.active.positions
    const host = new Int32Array(plan.tokens)
    for (const s of plan.sequences) for (let j = 0; j < s.count; j++) host[s.start + j] = s.begin + j
    return i32(host)
  }
  const rope = ctx.rotaryPosEmb === undefined ? {} : { rope: ctx.rotaryPosEmb.forTokens(positions(), plan.sequences) }
  if (params !== undefined) return { inferenceParams: params, ...rope }
  const ranges = { starts: i32(plan.sequences.map((s) => s.start)), lens: i32(plan.sequences.map((s) => s.count)) }
  if (!(ctx.attentionMask instanceof Tensor)) return { ranges, ...rope }
  const shape = ctx.attentionMask.shape
  const mask = shape.length === 4 && shape[1] === 1 ? temp(ctx.attentionMask.view([shape[0]!, shape[2]!, shape[3]!])) : ctx.attentionMask
  return { ranges: { ...ranges, mask }, ...rope }
}

function restore(result: Tensor, x: Tensor, index: Tensor | undefined): Tensor {
  const shape = [...x.shape.slice(0, -1), result.shape.at(-1)!]
  if (index === undefined) return result.view(shape)
  const full = Tensor.zeros(shape, { dtype: result.dtype, device: result.device })
  const flat = full.view([leading(shape), shape.at(-1)!])
  scatterRows({ x: result, rows: index, out: flat })
  flat.dispose()
  return full
}

function cachedPlan(op: string, x: Tensor, format: QkvFormat, ctx: ForwardContext): Plan {
  const params = ctx.inferenceParams!
  const { host, batchSize, totalTokens, maxSeqlenQ } = params
  const counts = Array.from({ length: batchSize }, (_, r) => host.cuSeqlensQ[r + 1]! - host.cuSeqlensQ[r]!)
  const sequences = counts.map((count, r) => ({ start: host.cuSeqlensQ[r]!, begin: host.preStepSeqlens[r]!, count }))
  const plan = { sequences, tokens: totalTokens }
  if (format === 'thd') {
    if (x.shape[0] !== totalTokens) throw mismatch(op, `[${totalTokens}, hidden] as preStep announced`, x)
    return plan
  }
  const [batch, width] = format === 'bshd' ? [x.shape[0]!, x.shape[1]!] : [x.shape[1]!, x.shape[0]!]
  if (batch !== batchSize || width < maxSeqlenQ) {
    throw mismatch(op, `${format} with B = ${batchSize} and S >= ${maxSeqlenQ} as preStep announced`, x)
  }
  const inOrder = batch * width === totalTokens && (format === 'bshd' || batch === 1 || width === 1)
  if (inOrder) return plan
  const at = (row: number, j: number) => (format === 'bshd' ? row * width + j : j * batch + row)
  return { ...plan, index: Int32Array.from(counts.flatMap((count, row) => Array.from({ length: count }, (_, j) => at(row, j)))) }
}

function densePlan(op: string, x: Tensor, format: QkvFormat, maskType: AttnMaskType, ctx: ForwardContext): Plan {
  const pads = ctx.attentionMask instanceof Tensor ? undefined : ctx.attentionMask
  checkMaskArguments(op, format, maskType, ctx, pads !== undefined)
  if (format === 'thd') return packedPlan(op, x, ctx.cuSeqlens ?? [0, x.shape[0]!])
  const [batch, width] = format === 'bshd' ? [x.shape[0]!, x.shape[1]!] : [x.shape[1]!, x.shape[0]!]
  const sequences = Array.from({ length: batch }, (_, row) => {
    const { first, count } = pads === undefined ? { first: 0, count: width } : tokenRange(op, pads, row, batch, width)
    return { start: row * width + first, begin: 0, count }
  })
  const plan = { sequences, tokens: batch * width }
  if (format === 'bshd' || batch === 1 || width === 1) return plan
  return { ...plan, index: Int32Array.from({ length: batch * width }, (_, t) => (t % width) * batch + Math.floor(t / width)) }
}

function packedPlan(op: string, x: Tensor, offsets: readonly number[]): Plan {
  const tokens = x.shape[0]!
  const ok = offsets.length >= 1 && offsets[0] === 0 && offsets.at(-1) === tokens && offsets.every((o, i) => Number.isInteger(o) && (i === 0 || o >= offsets[i - 1]!))
  if (!ok) {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: 'cuSeqlens', expected: `ascending offsets from 0 to ${tokens}`, received: `[${offsets.join(', ')}]` })
  }
  return { tokens, sequences: offsets.slice(1).map((end, i) => ({ start: offsets[i]!, begin: 0, count: end - offsets[i]! })) }
}

function checkMaskArguments(op: string, format: QkvFormat, maskType: AttnMaskType, ctx: ForwardContext, hasPads: boolean): void {
  const refuse = (expected: string, received: string) => {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: 'attentionMask', expected, received })
  }
  const padding = maskType.includes('padding')
  if (maskType === 'arbitrary' && !(ctx.attentionMask instanceof Tensor)) refuse("a u8 tensor for mask type 'arbitrary'", hasPads ? 'pads on the host' : 'none')
  if (maskType !== 'arbitrary' && ctx.attentionMask instanceof Tensor) refuse(`no tensor for mask type '${maskType}'`, 'a tensor')
  if (hasPads && !padding) refuse(`none for mask type '${maskType}'`, "pads; use 'padding' or 'padding_causal'")
  if (hasPads && format === 'thd') refuse('cuSeqlens instead, as thd has no pads', 'pads')
  if (padding && !hasPads && format !== 'thd') refuse(`[B][S] pads for mask type '${maskType}'`, 'none')
}

function tokenRange(op: string, pads: readonly ArrayLike<number | boolean>[], row: number, batch: number, width: number): { first: number; count: number } {
  const line = pads[row]
  if (pads.length !== batch || line?.length !== width) {
    throw new OctetError('SHAPE_MISMATCH', { op, argument: 'attentionMask', expected: `[${batch}][${width}]`, received: `[${pads.length}][${line?.length ?? 0}]` })
  }
  const tokens = Array.from({ length: width }, (_, i) => i).filter((i) => !line[i])
  const first = tokens[0] ?? 0
  if (tokens.length > 0 && tokens.at(-1)! - first + 1 !== tokens.length) {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: `attentionMask[${row}]`, expected: 'pads only before or after the tokens', received: 'pads between tokens' })
  }
  return { first, count: tokens.length }
}

function checkLeading(op: string, xs: readonly Tensor[], format: QkvFormat): void {
  const want = { bshd: '[B, S, width]', sbhd: '[S, B, width]', thd: '[T, width]' }[format]
  for (const x of xs) {
    if (x.shape.length !== (format === 'thd' ? 2 : 3)) throw mismatch(op, `${want} (${format})`, x)
    if (leading(x.shape) !== leading(xs[0]!.shape)) throw mismatch(op, `the leading axes of ${formatShape(xs[0]!.shape)}`, x)
  }
}

function leading(shape: Shape): number {
  return shape.slice(0, -1).reduce((n, d) => n * d, 1)
}

function mismatch(op: string, expected: string, x: Tensor): OctetError {
  return new OctetError('SHAPE_MISMATCH', { op, argument: 'x', expected, received: formatShape(x.shape) })
}
