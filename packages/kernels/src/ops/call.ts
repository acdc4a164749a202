import { OctetError, formatShape, sameShape, type ScaleGranularity, type Shape } from '@octet-llm/core'
import type { TensorDType } from '../dtype-codes.js'
import { checkSupport, enqueue, queueFor } from '../enqueue.js'
import type { OpName } from '../op-table.js'
import type { Queue } from '../queue.js'
import { disposeAll } from '../scope.js'
import { Tensor } from '../tensor.js'

/** Options that every op takes. */
export interface OpOptions {
  /** Queue to run on. Default: the one being captured, else the device's own. */
  readonly queue?: Queue
}

/** An FP8 tensor with the float32 scales that give its values back: value = data * scaleInv. */
export interface QuantizedTensor {
  /** [N, K], e4m3 or e5m2. */
  readonly data: Tensor
  /**
   * `tensor`: [1]; `row`: [N]; `block1x128`: [N, ceil(K/128)]; `block128x128`: [ceil(N/128), ceil(K/128)]. f32. Axes of length 1
   * may be added or left out.
   */
  readonly scaleInv: Tensor
  readonly granularity: ScaleGranularity
}

/**
 * Where an op leaves its result in FP8: the codes and scales that {@link quantize} makes of the result in its own dtype. Scales are
 * by `row` or `block1x128`, or given by `scale`, which `tensor` needs.
 */
export interface QuantizedOutput extends QuantizedTensor {
  /** A given scale (data = value * scale) instead of one from the values' own amax. Shape as scaleInv; f32. */
  readonly scale?: Tensor | undefined
  /** See quantize. Default false. */
  readonly powerOf2?: boolean | undefined
  /** See quantize. Default 0. */
  readonly epsilon?: number | undefined
}

/** Dtypes of activations, and of the parameters that are not weights of a linear. */
export const ACTIVATIONS = ['f32', 'bf16'] as const
export const FP8 = ['e4m3', 'e5m2'] as const
export const E4M3 = ['e4m3'] as const
/** Everything that a kernel widens to float32 as it loads. */
export const FLOATS = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'] as const
export const F32 = ['f32'] as const
export const I32 = ['i32'] as const

const BLOCK = 128
const GRANULARITY_CODES: Readonly<Record<ScaleGranularity, number>> = { tensor: 1, row: 2, block1x128: 3, block128x128: 4 }

/** A parsed pattern. `flat`: the first axis stands for all axes before the others. */
interface Pattern {
  readonly flat: boolean
  readonly axes: readonly string[]
}

const patterns = new Map<string, Pattern>()

function parse(pattern: string): Pattern {
  let parsed = patterns.get(pattern)
  if (parsed === undefined) {
    const flat = pattern.startsWith('*')
    parsed = { flat, axes: (flat ? pattern.slice(1) : pattern).split(' ') }
    patterns.set(pattern, parsed)
  }
  return parsed
}

/**
 * One use of an op: checks its arguments against named axes, makes its outputs and enqueues it. An axis gets its length
 * from the first tensor that has it and holds for all later ones.
 *
 * A pattern lists axes outermost first, as `'T H'`. A leading `*`, as in `'*N D'`, flattens all axes before the others
 * into one; `'1'` is an axis of length one.
 */
export class Call {
  readonly #axes = new Map<string, number>()
  readonly #wanted: Queue | undefined
  readonly #made: Tensor[] = []
  #queue: Queue | undefined

  constructor(
    readonly op: OpName,
    options: OpOptions,
  ) {
    this.#wanted = options.queue
  }

  /** Fixes an axis before a tensor does. */
  axis(name: string, length: number): this {
    this.#axes.set(name, length)
    return this
  }

  /** Length of an axis that is fixed. */
  length(name: string): number {
    return this.#axes.get(name)!
  }

  /**
   * A null pattern accepts any shape.
   * @throws OctetError `INVALID_ARGUMENT` (not a tensor), `DISPOSED`, `DTYPE_MISMATCH`, `SHAPE_MISMATCH`.
   */
  input(argument: string, tensor: Tensor, pattern: string | null, dtypes: readonly TensorDType[]): Tensor {
    if (!(tensor instanceof Tensor)) this.fail(argument, 'a Tensor', tensor === null ? 'null' : typeof tensor)
    tensor.check(this.op, argument)
    this.#meet(argument, tensor)
    if (!dtypes.includes(tensor.dtype)) {
      throw new OctetError('DTYPE_MISMATCH', { op: this.op, argument, expected: dtypes.join(' or '), received: tensor.dtype })
    }
    if (pattern !== null) this.#bind(argument, tensor.shape, pattern)
    return tensor
  }

  optional(argument: string, tensor: Tensor | undefined, pattern: string, dtypes: readonly TensorDType[]): Tensor | null {
    return tensor === undefined ? null : this.input(argument, tensor, pattern, dtypes)
  }

  /** An {@link input} whose elements follow each other without gaps. */
  contiguous(argument: string, tensor: Tensor, pattern: string | null, dtypes: readonly TensorDType[]): Tensor {
    this.input(argument, tensor, pattern, dtypes)
    if (!tensor.isContiguous) this.fail(argument, 'contiguous rows', `a row stride of ${tensor.rowStride}`, 'copy() it first')
    return tensor
  }

  /**
   * The caller's output, checked, or a new tensor. `shape` and `dtype` (the first of `dtypes`) are those of a new one. Without memory
   * for it, outputs that were made before it are freed.
   */
  output(argument: string, given: Tensor | undefined, pattern: string | null, shape: Shape, dtypes: readonly TensorDType[]): Tensor {
    if (given !== undefined) return this.input(argument, given, pattern, dtypes)
    const queue = this.#queue!
    try {
      const made = Tensor.empty(shape, { dtype: dtypes[0]!, device: queue.device, queue })
      this.#made.push(made)
      return made
    } catch (error) {
      disposeAll(this.#made)
      throw error
    }
  }

  /** Native code of a granularity. @throws OctetError `INVALID_ARGUMENT` */
  granularity(argument: string, granularity: ScaleGranularity): number {
    return this.choose(argument, granularity, GRANULARITY_CODES)
  }

  /** Checks the scales of a [rows, cols] tensor; axes of length 1 do not count. @throws OctetError as {@link contiguous}. */
  scales(argument: string, scales: Tensor, granularity: ScaleGranularity, rows: number, cols: number): Tensor {
    const expected = scaleShape(granularity, rows, cols)
    this.contiguous(argument, scales, null, F32)
    if (!sameShape(squeeze(scales.shape), squeeze(expected))) {
      throw new OctetError('SHAPE_MISMATCH', { op: this.op, argument, expected: `${formatShape(expected)} for granularity ${granularity}`, received: formatShape(scales.shape) })
    }
    return scales
  }

  /**
   * Checks a result that goes out in FP8, [rows, cols] by `pattern`. Not by blocks of several rows, nor by a tensor's own amax: an op
   * that makes rows sees one at a time.
   */
  quantizedOutput(target: QuantizedOutput, pattern: string, rows: number, cols: number): { tensors: [data: Tensor, scaleInv: Tensor, scale: Tensor | null]; attributes: [number, boolean, number] } {
    const { granularity, scale } = target
    const code = this.granularity('quantized.granularity', granularity)
    if (granularity === 'block128x128') this.fail('quantized.granularity', 'tensor, row or block1x128', granularity)
    if (granularity === 'tensor' && scale === undefined) this.fail('quantized.scale', 'a given scale for granularity tensor', 'none')
    const data = this.input('quantized.data', target.data, pattern, E4M3)
    const scaleInv = this.scales('quantized.scaleInv', target.scaleInv, granularity, rows, cols)
    const given = scale === undefined ? null : this.scales('quantized.scale', scale, granularity, rows, cols)
    return { tensors: [data, scaleInv, given], attributes: [code, target.powerOf2 ?? false, this.real('quantized.epsilon', target.epsilon ?? 0, 0)] }
  }

  /** Runs an op whose result in FP8 has no elements, whatever x has: the scales are all there is, as quantize writes them. */
  runWithoutElements(x: Tensor, target: { readonly tensors: readonly (Tensor | null)[]; readonly attributes: readonly (number | boolean)[] }): void {
    enqueue(this.#queue!, 'quantize', [x, ...target.tensors], target.attributes.map(Number))
  }

  /** @throws OctetError `INVALID_ARGUMENT` unless `value` is a whole number within [min, max]. */
  whole(argument: string, value: number, min = 0, max: number = Number.MAX_SAFE_INTEGER): number {
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      this.fail(argument, max === Number.MAX_SAFE_INTEGER ? `a whole number >= ${min}` : `a whole number from ${min} to ${max}`, String(value))
    }
    return value
  }

  /** @throws OctetError `INVALID_ARGUMENT` unless `value` is a finite number within [min, max]. */
  real(argument: string, value: number, min = -Infinity, max = Infinity): number {
    if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value > max) {
      this.fail(argument, min === -Infinity && max === Infinity ? 'a finite number' : `a finite number from ${min} to ${max}`, String(value))
    }
    return value
  }

  /** The value behind a key. @throws OctetError `INVALID_ARGUMENT` for an unknown key. */
  choose<T>(argument: string, key: string, table: Readonly<Record<string, T>>): T {
    if (!Object.hasOwn(table, key)) this.fail(argument, `one of ${Object.keys(table).join(', ')}`, String(key))
    return table[key]!
  }

  /** {@link prefer} of a dtype that the caller chose. @throws OctetError `DTYPE_MISMATCH` */
  choices(argument: string, dtype: TensorDType, dtypes: readonly TensorDType[]): readonly TensorDType[] {
    if (dtypes.includes(dtype)) return prefer(dtype, dtypes)
    throw new OctetError('DTYPE_MISMATCH', { op: this.op, argument, expected: dtypes.join(' or '), received: String(dtype) })
  }

  run(tensors: readonly (Tensor | null)[], attrs: readonly (number | boolean)[]): void {
    enqueue(this.#queue!, this.op, tensors, attrs.map(Number))
  }

  fail(argument: string, expected: string, received: string, hint?: string): never {
    throw new OctetError('INVALID_ARGUMENT', { op: this.op, argument, expected, received, ...(hint === undefined ? {} : { hint }) })
  }

  /** The first tensor chooses device and queue; nothing may fail once an output was made. */
  #meet(argument: string, tensor: Tensor): void {
    if (this.#queue === undefined) {
      this.#queue = queueFor(this.op, tensor, this.#wanted)
      checkSupport(this.#queue.device, this.op)
    } else if (tensor.device !== this.#queue.device) {
      this.fail(argument, `a tensor of the same ${this.#queue.device.name} device as the others`, `one of another ${tensor.device.name} device`)
    }
  }

  #bind(argument: string, shape: Shape, pattern: string): void {
    const { flat, axes } = parse(pattern)
    const lead = shape.length - axes.length + 1
    if (flat ? lead < 0 : lead !== 1) this.#mismatch(argument, shape, pattern)
    for (let i = 0; i < axes.length; i++) {
      let length: number
      if (flat && i === 0) {
        length = 1
        for (let d = 0; d < lead; d++) length *= shape[d]!
      } else length = shape[lead + i - 1]!
      const name = axes[i]!
      const known = name === '1' ? 1 : this.#axes.get(name)
      if (known === undefined) this.#axes.set(name, length)
      else if (known !== length) this.#mismatch(argument, shape, pattern)
    }
  }

  /** `[...(6 in all), 4096]`: known axes by length, open ones by name. */
  #mismatch(argument: string, shape: Shape, pattern: string): never {
    const { flat, axes } = parse(pattern)
    const known = axes.map((name, i) => {
      const length = name === '1' ? 1 : this.#axes.get(name)
      if (flat && i === 0) return length === undefined ? '...' : `...(${length} in all)`
      return length === undefined ? name : String(length)
    })
    throw new OctetError('SHAPE_MISMATCH', { op: this.op, argument, expected: `[${known.join(', ')}]`, received: formatShape(shape) })
  }
}

/** Shape of the scales of a [rows, cols] tensor; the axis of one scale covers the whole tensor, a row, or a block. */
export function scaleShape(granularity: ScaleGranularity, rows: number, cols: number): Shape {
  switch (granularity) {
    case 'tensor':
      return [1]
    case 'row':
      return [rows]
    case 'block1x128':
      return [rows, Math.ceil(cols / BLOCK)]
    case 'block128x128':
      return [Math.ceil(rows / BLOCK), Math.ceil(cols / BLOCK)]
  }
}

function squeeze(shape: Shape): Shape {
  return shape.filter((length) => length !== 1)
}

/** x's shape with another last axis. */
export function withLast(shape: Shape, last: number): Shape {
  return [...shape.slice(0, -1), last]
}

/** The dtype first, then the others: an output follows its input unless the caller gives another tensor. */
export function prefer(dtype: TensorDType, dtypes: readonly TensorDType[]): readonly TensorDType[] {
  return dtypes[0] === dtype ? dtypes : [dtype, ...dtypes]
}
