/** Tensors of a case on a device, each inside a larger one whose other bytes are watched. */
import { itemSize, numel } from '@octet-llm/core'
import type { Device } from '../device.js'
import type { TensorDType } from '../dtype-codes.js'
import { Tensor } from '../tensor.js'
import type { Input, Output, Placement } from './contract.js'
import { encode } from './host.js'

/** Around inputs: NaN in every floating dtype, -1 in i32, so that a read past the edge shows. */
const POISON = 0xff
/** Around outputs. */
const SENTINEL = 0xa5
/** Elements or rows on either side. */
const MARGIN = { plain: 16, padded: 16, offset: 1 } as const

export class Placed {
  readonly view: Tensor
  readonly #whole: Tensor
  readonly #bytes: Uint8Array
  readonly #geometry: Geometry

  constructor(device: Device, dtype: TensorDType, shape: readonly number[], placement: Placement, around: number, content: Uint8Array | null) {
    const geometry = geometryOf(dtype, shape, placement)
    const bytes = new Uint8Array(numel(geometry.whole) * itemSize(dtype)).fill(around)
    if (content !== null) eachRow(geometry, (at, row, n) => bytes.set(content.subarray(row, row + n), at))
    else eachRow(geometry, (at, _row, n) => bytes.fill(POISON, at, at + n))
    this.#whole = Tensor.fromBytes(bytes, { shape: geometry.whole, dtype, device })
    this.#bytes = bytes
    this.#geometry = geometry
    this.view = cut(this.#whole, geometry)
  }

  static input(device: Device, input: Input): Placed {
    return new Placed(device, input.host.dtype, input.host.shape, input.placement ?? 'plain', POISON, encode(input.host))
  }
  static output(device: Device, output: Output): Placed {
    const content = output.initial === undefined ? null : encode(output.initial)
    return new Placed(device, output.dtype, output.shape, output.placement ?? 'plain', SENTINEL, content)
  }

  /** Whether the op left every byte alone. */
  async untouched(): Promise<boolean> {
    return equal(await this.#whole.toBytes(), this.#bytes)
  }

  /** The view's bytes, and whether all others still stand. */
  async read(): Promise<{ content: Uint8Array; intact: boolean }> {
    const now = await this.#whole.toBytes()
    const content = new Uint8Array(this.#geometry.bytes)
    const rest = this.#bytes.slice()
    eachRow(this.#geometry, (at, row, n) => {
      content.set(now.subarray(at, at + n), row)
      rest.set(now.subarray(at, at + n), at)
    })
    return { content, intact: equal(now, rest) }
  }

  dispose(): void {
    this.view.dispose()
    this.#whole.dispose()
  }
}

interface Geometry {
  readonly whole: number[]
  readonly firstRow: number
  readonly firstColumn: number
  readonly shape: readonly number[]
  readonly rowBytes: number
  readonly strideBytes: number
  readonly startBytes: number
  readonly bytes: number
}

function geometryOf(dtype: TensorDType, shape: readonly number[], placement: Placement): Geometry {
  const item = itemSize(dtype)
  const margin = MARGIN[placement]
  const cols = shape.at(-1) ?? 1
  const bytes = numel(shape) * item
  if (shape.length <= 1) {
    return { whole: [cols + 2 * margin], firstRow: margin, firstColumn: 0, shape, rowBytes: bytes, strideBytes: bytes, startBytes: margin * item, bytes }
  }
  const inner = placement === 'plain' ? cols : cols + 2 * margin + (placement === 'offset' && cols % 2 === 0 ? 1 : 0)
  const firstColumn = placement === 'plain' ? 0 : margin
  const perStep = numel(shape.slice(1, -1))
  const whole = [shape[0]! + 2, ...shape.slice(1, -1), inner]
  return { whole, firstRow: 1, firstColumn, shape, rowBytes: cols * item, strideBytes: inner * item, startBytes: (perStep * inner + firstColumn) * item, bytes }
}

function cut(whole: Tensor, g: Geometry): Tensor {
  const rows = whole.rows(g.firstRow, g.firstRow + (g.shape[0] ?? 1))
  if (g.shape.length <= 1) {
    if (g.shape.length === 1) return rows
    const scalar = rows.view([])
    rows.dispose()
    return scalar
  }
  const view = rows.columns(g.firstColumn, g.firstColumn + g.shape.at(-1)!)
  rows.dispose()
  return view
}

/** Calls f(byte offset in the whole, byte offset in the content, bytes) for every row of the view. */
function eachRow(g: Geometry, f: (at: number, row: number, bytes: number) => void): void {
  if (g.rowBytes === 0) return
  for (let row = 0, at = g.startBytes; row < g.bytes; row += g.rowBytes, at += g.strideBytes) f(at, row, g.rowBytes)
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
