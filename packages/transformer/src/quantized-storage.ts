import { OctetError, type ScaleGranularity } from '@octet-llm/core'
import { compensate, disposeAll, gatherRows, keep, quantize, Tensor, type Device, type QuantizedTensor } from '@octet-llm/kernels'

/** How a tensor is quantized to e4m3 from its own values. */
export interface QuantizeRule {
  readonly granularity: ScaleGranularity
  /** Scales are powers of two. Default false. */
  readonly powerOf2?: boolean
  /** Lower bound of an amax. Default 0. */
  readonly epsilon?: number
}

/** Consecutive rows of a weight that one product can take. */
export interface WeightRun {
  readonly begin: number
  readonly end: number
  readonly weight: Tensor | QuantizedTensor
}

/** Row ranges of a weight, in order. */
export interface RowRange {
  readonly name: string | undefined
  readonly begin: number
  readonly end: number
}

const BLOCK = 128

/** Scales that lie in one tensor: one a row (a tensor's one scale repeated), one a 1×128 or a 128×128 block. */
type Family = 'row' | 'block1x128' | 'block128x128'

interface Segment extends RowRange {
  /** Row of its first 128×128 block: the grid of a segment starts at its own first row. */
  readonly block: number
  readonly blocks: number
  readonly codes: Tensor
  granularity: ScaleGranularity | undefined
  scaleInv: Tensor | undefined
  compensated: boolean
}

/**
 * A weight in e4m3: one allocation of codes for all segments, and scales of each segment's own granularity. The scale of
 * a segment `by tensor` is stored once a row, so that segments of unlike scales run as one product.
 */
export class QuantizedStorage {
  /** e4m3 [N, K] */
  readonly codes: Tensor
  readonly #device: Device
  readonly #columns: number
  readonly #rows: number
  readonly #blocks: number
  readonly #segments: readonly Segment[]
  readonly #scales = new Map<Family, Tensor>()
  readonly #views: Tensor[] = []
  #runs: readonly WeightRun[] | undefined

  constructor(device: Device, shape: readonly [rows: number, columns: number], ranges: readonly RowRange[]) {
    this.#device = device
    const [rows, columns] = shape
    this.#rows = rows
    this.#columns = columns
    this.codes = keep(Tensor.empty([rows, columns], { dtype: 'e4m3', device }))
    let block = 0
    this.#segments = ranges.map((range) => {
      const blocks = Math.ceil((range.end - range.begin) / BLOCK)
      const segment = { ...range, block, blocks, codes: this.#view(this.codes.rows(range.begin, range.end)), granularity: undefined, scaleInv: undefined, compensated: false }
      block += blocks
      return segment
    })
    this.#blocks = block
  }

  /** Bytes of the codes, and of the scales that exist so far. */
  get byteLength(): number {
    return this.codes.byteLength + [...this.#scales.values()].reduce((sum, t) => sum + t.byteLength, 0)
  }

  /**
   * Where the codes and scales of a segment go; `seal` it once they are written. A segment may be stored again, in
   * another granularity.
   */
  target(name: string | undefined, asked: ScaleGranularity): QuantizedTensor {
    const segment = this.#find(name)
    const granularity = canonical(asked, segment.end - segment.begin, this.#columns)
    return { data: segment.codes, scaleInv: this.#scalesOf(segment, granularity), granularity }
  }

  seal(name: string | undefined, target: QuantizedTensor): void {
    const segment = this.#find(name)
    const { granularity } = target
    if (granularity === 'tensor') this.#spread(segment, target.scaleInv)
    segment.granularity = granularity
    segment.compensated = false
    segment.scaleInv = granularity === 'tensor' ? this.#view(this.#family('row').rows(segment.begin, segment.begin + 1)) : target.scaleInv
    // Made now, not at the first product: views made while a graph is captured would belong to the graph.
    this.#runs = this.#segments.every((s) => s.granularity !== undefined) ? this.#merge() : undefined
  }

  /**
   * Quantizes the values of a segment, [rows, K] in f32 or bf16.
   * @param scale f32 [1], granularity tensor only: instead of one from the values
   */
  store(name: string | undefined, values: Tensor, rule: QuantizeRule, scale?: Tensor): void {
    const target = this.target(name, rule.granularity)
    quantize({ x: values, granularity: target.granularity, powerOf2: rule.powerOf2, epsilon: rule.epsilon, scale, data: target.data, scaleInv: target.scaleInv })
    this.seal(name, target)
  }

  /**
   * Moves the codes of a segment that was stored, so that their errors cancel in products with inputs of such moments.
   * @param values those that were stored
   * @param moments f32 [K, S], see InputMoments
   * @throws OctetError `NOT_SUPPORTED`, `SHAPE_MISMATCH`
   */
  compensate(name: string | undefined, values: Tensor, moments: Tensor): void {
    compensate({ x: values, moments, quantized: this.read(name) })
    this.#find(name).compensated = true
  }

  /** How the codes of a segment were chosen here; those that a checkpoint holds count as `nearest`. */
  rounding(name: string | undefined): 'nearest' | 'compensated' {
    return this.#find(name).compensated ? 'compensated' : 'nearest'
  }

  /** Codes and scales of a segment as they were stored. @throws OctetError `INVALID_ARGUMENT` when nothing was */
  read(name: string | undefined): QuantizedTensor {
    const { codes, scaleInv, granularity } = this.#find(name)
    if (scaleInv === undefined || granularity === undefined) throw this.#empty(name)
    return { data: codes, scaleInv, granularity }
  }

  /** The fewest products that cover all rows. @throws OctetError `INVALID_ARGUMENT` while a segment is not stored */
  get runs(): readonly WeightRun[] {
    if (this.#runs === undefined) throw this.#empty(this.#segments.find((s) => s.granularity === undefined)?.name)
    return this.#runs
  }

  dispose(): void {
    disposeAll([...this.#views, ...this.#scales.values(), this.codes])
  }

  #merge(): WeightRun[] {
    const groups: Segment[][] = []
    for (const segment of this.#segments) {
      const last = groups.at(-1)?.at(-1)
      const joins = last !== undefined && familyOf(last.granularity!) === familyOf(segment.granularity!) && (segment.granularity !== 'block128x128' || (last.end - last.begin) % BLOCK === 0)
      if (joins) groups.at(-1)!.push(segment)
      else groups.push([segment])
    }
    return groups.map((group) => {
      const [first, last] = [group[0]!, group.at(-1)!]
      const family = familyOf(first.granularity!)
      const scales = this.#family(family)
      const blocks = family === 'block128x128'
      const scaleInv = this.#view(blocks ? scales.rows(first.block, last.block + last.blocks) : scales.rows(first.begin, last.end))
      return { begin: first.begin, end: last.end, weight: { data: this.#view(this.codes.rows(first.begin, last.end)), scaleInv, granularity: family } }
    })
  }

  #scalesOf(segment: Segment, granularity: ScaleGranularity): Tensor {
    switch (granularity) {
      case 'tensor':
        return Tensor.empty([1], { dtype: 'f32', device: this.#device })
      case 'row':
      case 'block1x128':
        return this.#view(this.#family(granularity).rows(segment.begin, segment.end))
      case 'block128x128':
        return this.#view(this.#family(granularity).rows(segment.block, segment.block + segment.blocks))
    }
  }

  #family(family: Family): Tensor {
    const held = this.#scales.get(family)
    if (held !== undefined) return held
    const across = Math.ceil(this.#columns / BLOCK)
    const shape = { row: [this.#rows], block1x128: [this.#rows, across], block128x128: [this.#blocks, across] }[family]
    const made = keep(Tensor.empty(shape, { dtype: 'f32', device: this.#device }))
    this.#scales.set(family, made)
    return made
  }

  /** The one scale of a segment in each of its rows; frees the one. */
  #spread(segment: Segment, scale: Tensor): void {
    const count = segment.end - segment.begin
    const zeros = Tensor.zeros([count], { dtype: 'i32', device: this.#device })
    const rows = this.#family('row').rows(segment.begin, segment.end)
    const [from, out] = [scale.view([1, 1]), rows.view([count, 1])]
    gatherRows({ x: from, rows: zeros, out })
    for (const t of [zeros, from, out, rows, scale]) t.dispose()
  }

  #find(name: string | undefined): Segment {
    const segment = this.#segments.find((s) => s.name === name)
    if (segment === undefined) throw new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument: 'segment', expected: this.#segments.map((s) => s.name ?? 'the whole weight').join(', '), received: String(name) })
    return segment
  }

  #view(tensor: Tensor): Tensor {
    const kept = keep(tensor)
    this.#views.push(kept)
    return kept
  }

  #empty(name: string | undefined): OctetError {
    return new OctetError('INVALID_ARGUMENT', { op: 'Weight', argument: name ?? 'weight', expected: 'FP8 values, loaded or initialized', received: 'none', hint: 'load a checkpoint, or initialize the module' })
  }
}

/** A grid of one block a row, or of one block, by the simpler name: files cannot tell them apart. */
function canonical(granularity: ScaleGranularity, rows: number, columns: number): ScaleGranularity {
  if (columns > BLOCK) return granularity
  if (granularity === 'block1x128') return 'row'
  return granularity === 'block128x128' && rows <= BLOCK ? 'tensor' : granularity
}

function familyOf(granularity: ScaleGranularity): Family {
  return granularity === 'tensor' ? 'row' : granularity
}
