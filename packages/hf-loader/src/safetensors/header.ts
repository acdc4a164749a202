import { itemSize, OctetError, type DType, type Shape } from '@octet-llm/core'
import { JsonReader, JsonSyntaxError } from '../io/json-reader.js'
import { quoteName, showShape } from '../io/names.js'
import { DTYPE_OF_NAME } from './dtypes.js'

/** Largest header the reference reads (`MAX_HEADER_SIZE`). */
export const MAX_HEADER_BYTES = 100_000_000

/** More than any library has. The reference has no limit but memory. */
const MAX_AXES = 1024

/** Bytes of the length that opens the file. */
export const LENGTH_BYTES = 8

/** One tensor as the header describes it. */
export interface SafetensorsTensor {
  readonly dtype: DType
  readonly shape: Shape
  readonly byteLength: number
  /** First byte within the file. */
  readonly offset: number
}

export interface SafetensorsHeader {
  /** In file order. */
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>
  readonly metadata: ReadonlyMap<string, string>
}

/** Where the header was read, for messages and for absolute offsets. */
export interface HeaderContext {
  readonly op: string
  readonly path: string
  /** First byte after the header. */
  readonly dataStart: number
  /** Bytes of the file from `dataStart` on. */
  readonly dataLength: number
}

/**
 * Parses and validates a header as the reference does: fields complete and typed, offsets without gap or overlap, each
 * length equal to its shape times its dtype, the data ending where the file ends. Of a repeated tensor name the last
 * counts. Costs memory in proportion to the header's bytes only.
 * @throws OctetError `INVALID_SAFETENSORS`; `NOT_SUPPORTED` for the format's sub-byte and complex types.
 */
export function parseHeader(bytes: Buffer, context: HeaderContext): SafetensorsHeader {
  try {
    return new HeaderParser(bytes, context).parse()
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error
    throw invalid(context, 'header', 'JSON of the safetensors form', error.message)
  }
}

export function invalid(context: { op: string; path: string }, what: string, expected: string, received: string): OctetError {
  return new OctetError('INVALID_SAFETENSORS', {
    op: context.op,
    argument: `${context.path}: ${what}`,
    expected,
    received,
    hint: 'the file is damaged or no safetensors file; fetch it again',
  })
}

type Fields = { dtype?: string; shape?: number[]; begin?: number; end?: number }

class HeaderParser {
  private readonly reader: JsonReader
  private readonly found = new Map<string, SafetensorsTensor>()
  private readonly metadata = new Map<string, string>()
  private sawMetadata = false

  constructor(
    bytes: Buffer,
    private readonly context: HeaderContext,
  ) {
    this.reader = new JsonReader(bytes)
  }

  parse(): SafetensorsHeader {
    this.reader.readObject((key) => {
      if (key === '__metadata__') this.readMetadata()
      else this.found.set(key, this.readTensor(key))
    })
    this.reader.end()
    return { tensors: this.inFileOrder(), metadata: this.metadata }
  }

  private readMetadata(): void {
    if (this.sawMetadata) this.reader.fail('"__metadata__" is repeated')
    this.sawMetadata = true
    if (this.reader.takeNull()) return
    this.reader.readObject((key) => this.metadata.set(key, this.reader.readString()))
  }

  private readTensor(name: string): SafetensorsTensor {
    const fields: Fields = {}
    const { reader } = this
    reader.readObject((key) => {
      if (key === 'dtype') {
        if (fields.dtype !== undefined) reader.fail('"dtype" is repeated')
        fields.dtype = reader.readString()
      } else if (key === 'shape') {
        if (fields.shape !== undefined) reader.fail('"shape" is repeated')
        fields.shape = this.readNumbers()
      } else if (key === 'data_offsets') {
        if (fields.begin !== undefined) reader.fail('"data_offsets" is repeated')
        const offsets = this.readNumbers()
        if (offsets.length !== 2) throw this.invalid(name, 'two data_offsets', `${offsets.length}`)
        fields.begin = offsets[0]!
        fields.end = offsets[1]!
      } else {
        reader.skipValue()
      }
    })
    return this.checkTensor(name, fields)
  }

  private checkTensor(name: string, { dtype: dtypeName, shape, begin, end }: Fields): SafetensorsTensor {
    if (dtypeName === undefined || shape === undefined || begin === undefined || end === undefined) {
      throw this.invalid(name, 'dtype, shape and data_offsets', 'an entry without all three')
    }
    const dtype = DTYPE_OF_NAME.get(dtypeName)
    if (dtype === undefined) throw this.invalid(name, 'a dtype of the format', quoteName(dtypeName))
    if (dtype === null) throw this.unsupported(name, dtypeName)
    const byteLength = checkedByteLength(shape, itemSize(dtype))
    if (byteLength === undefined) throw this.invalid(name, 'a shape of fewer than 2^53 bytes', showShape(shape))
    if (end - begin !== byteLength) {
      throw this.invalid(name, `${byteLength} bytes for ${dtypeName} ${showShape(shape)}`, `data_offsets [${begin}, ${end}]`)
    }
    return { dtype, shape, byteLength, offset: this.context.dataStart + begin }
  }

  private inFileOrder(): Map<string, SafetensorsTensor> {
    const { dataStart, dataLength } = this.context
    const sorted = sortedByPlace(this.found)
    let end = dataStart
    for (const [name, tensor] of sorted) {
      if (tensor.offset !== end) {
        const kind = tensor.offset > end ? 'a gap before it' : 'an overlap with the tensor before it'
        throw this.invalid(name, `data that begins at ${end - dataStart}`, `${tensor.offset - dataStart}: ${kind}`)
      }
      end += tensor.byteLength
    }
    if (end !== dataStart + dataLength) {
      throw invalid(this.context, 'data', `${end - dataStart} bytes`, `${dataLength} bytes`)
    }
    return sorted
  }

  private readNumbers(): number[] {
    const numbers: number[] = []
    this.reader.readArray(() => {
      if (numbers.length === MAX_AXES) this.reader.fail(`expected at most ${MAX_AXES} numbers`)
      numbers.push(this.reader.readUnsigned())
    })
    return numbers
  }

  private invalid(name: string, expected: string, received: string): OctetError {
    return invalid(this.context, `tensor ${quoteName(name)}`, expected, received)
  }

  private unsupported(name: string, dtypeName: string): OctetError {
    return new OctetError('NOT_SUPPORTED', {
      op: this.context.op,
      argument: `${this.context.path}: tensor ${quoteName(name)}`,
      expected: 'a dtype of whole bytes that Octet knows',
      received: dtypeName,
      hint: 'convert the tensor to another dtype',
    })
  }
}

function comparePlaces(a: SafetensorsTensor, b: SafetensorsTensor): number {
  return a.offset - b.offset || a.byteLength - b.byteLength
}

/** Headers are nearly always in file order already; then nothing is copied. */
function sortedByPlace(found: Map<string, SafetensorsTensor>): Map<string, SafetensorsTensor> {
  let previous: SafetensorsTensor | undefined
  let sorted = true
  for (const tensor of found.values()) {
    sorted &&= previous === undefined || comparePlaces(previous, tensor) <= 0
    previous = tensor
  }
  if (sorted) return found
  const names = [...found.keys()].sort((a, b) => comparePlaces(found.get(a)!, found.get(b)!))
  return new Map(names.map((name) => [name, found.get(name)!]))
}

/** Bytes of a shape; undefined once a step of the product leaves the whole numbers a double holds (the checked multiply). */
function checkedByteLength(shape: readonly number[], bytesPerItem: number): number | undefined {
  let items = 1
  for (const length of shape) {
    items *= length
    if (!Number.isSafeInteger(items)) return undefined
  }
  const bytes = items * bytesPerItem
  return Number.isSafeInteger(bytes) ? bytes : undefined
}
