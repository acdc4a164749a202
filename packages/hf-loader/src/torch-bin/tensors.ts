import { itemSize, type DType } from '@octet-llm/core'
import { quoteName, showShape } from '../io/names.js'
import { badPickle, describe, PickleDict, PickleObject, PickleTuple, unsafePickle, type PickleValue } from './pickle-values.js'
import type { PickleHandlers } from './unpickler.js'

/** Largest number of axes torch has. */
const MAX_AXES = 64

/** The element type of a storage class; an UntypedStorage counts bytes. */
const STORAGE_DTYPES: ReadonlyMap<string, DType> = new Map([
  ['DoubleStorage', 'f64'],
  ['FloatStorage', 'f32'],
  ['HalfStorage', 'f16'],
  ['BFloat16Storage', 'bf16'],
  ['LongStorage', 'i64'],
  ['IntStorage', 'i32'],
  ['ShortStorage', 'i16'],
  ['CharStorage', 'i8'],
  ['ByteStorage', 'u8'],
  ['BoolStorage', 'bool'],
  ['UntypedStorage', 'u8'],
])

/** What `_rebuild_tensor_v3` names as its dtype: inert values, no classes. */
const TORCH_DTYPES: ReadonlyMap<string, DType> = new Map([
  ['float64', 'f64'],
  ['float32', 'f32'],
  ['float16', 'f16'],
  ['bfloat16', 'bf16'],
  ['float8_e4m3fn', 'e4m3'],
  ['float8_e5m2', 'e5m2'],
  ['float8_e8m0fnu', 'e8m0'],
  ['int64', 'i64'],
  ['int32', 'i32'],
  ['int16', 'i16'],
  ['int8', 'i8'],
  ['uint64', 'u64'],
  ['uint32', 'u32'],
  ['uint16', 'u16'],
  ['uint8', 'u8'],
  ['bool', 'bool'],
])

const CALLABLES = new Set([
  'collections.OrderedDict',
  'torch._utils._rebuild_tensor_v2',
  'torch._utils._rebuild_tensor_v3',
  'torch._utils._rebuild_parameter',
])

class Callable extends PickleObject {
  constructor(readonly name: string) {
    super()
  }
  describe(): string {
    return this.name
  }
}

class StorageClass extends PickleObject {
  constructor(
    readonly name: string,
    readonly dtype: DType,
  ) {
    super()
  }
  describe(): string {
    return `torch.${this.name}`
  }
}

class TorchDType extends PickleObject {
  constructor(
    readonly name: string,
    readonly dtype: DType,
  ) {
    super()
  }
  describe(): string {
    return `torch.${this.name}`
  }
}

/** A block of elements that tensors are views of; where its bytes lie the container of the file knows. */
export class Storage extends PickleObject {
  constructor(
    readonly key: string,
    readonly dtype: DType,
    /** Elements of `dtype`. */
    readonly length: number,
    readonly className: string,
  ) {
    super()
  }
  get byteLength(): number {
    return this.length * itemSize(this.dtype)
  }
  describe(): string {
    return `storage ${quoteName(this.key)}`
  }
}

/** A tensor as a view of its storage, checked to lie inside it. */
export class TensorView extends PickleObject {
  constructor(
    readonly storage: Storage,
    readonly dtype: DType,
    readonly shape: readonly number[],
    /** Element strides; undefined when row-major. */
    readonly strides: readonly number[] | undefined,
    /** First byte and number of bytes within the storage. */
    readonly byteOffset: number,
    readonly byteLength: number,
  ) {
    super()
  }
  describe(): string {
    return `a tensor ${showShape(this.shape)}`
  }
}

/** The globals, calls and storages of a pickled dictionary of tensors; everything else is refused. */
export class TensorHandlers implements PickleHandlers {
  /** Every storage the pickle names. */
  readonly storages = new Map<string, Storage>()

  global(module: string, name: string): PickleValue {
    const full = `${module}.${name}`
    if (CALLABLES.has(full)) return new Callable(full)
    if (module === 'torch' || (module === 'torch.storage' && name === 'UntypedStorage')) {
      const storage = STORAGE_DTYPES.get(name)
      if (storage !== undefined) return new StorageClass(name, storage)
      const dtype = TORCH_DTYPES.get(name)
      if (dtype !== undefined) return new TorchDType(name, dtype)
    }
    throw unsafePickle('the globals that rebuild tensors', `global ${quoteName(full)}`)
  }

  reduce(callable: PickleValue, { items }: PickleTuple): PickleValue {
    if (!(callable instanceof Callable)) throw badPickle('a function that rebuilds a tensor', `a call of ${describe(callable)}`)
    switch (callable.name) {
      case 'collections.OrderedDict':
        if (items.length > 0) throw badPickle('an OrderedDict that begins empty', 'one with arguments')
        return new PickleDict()
      case 'torch._utils._rebuild_parameter':
        if (!(items[0] instanceof TensorView)) throw badPickle('a parameter of a tensor', describe(items[0] ?? null))
        return items[0]
      case 'torch._utils._rebuild_tensor_v2':
        refuseFlags(items[6])
        return viewOf(items, undefined)
      default:
        refuseFlags(items[7])
        return viewOf(items, items[6])
    }
  }

  persistentLoad(id: PickleValue): PickleValue {
    const items = id instanceof PickleTuple ? id.items : []
    const [kind, type, key, device, length, viewMetadata] = items
    if (kind !== 'storage' || !(type instanceof StorageClass) || typeof key !== 'string' || typeof device !== 'string' || !isCount(length)) {
      throw badPickle('a persistent id ("storage", class, key, device, length)', describe(id))
    }
    if (viewMetadata !== undefined && viewMetadata !== null) throw badPickle('a storage of its own', 'a view of another storage (torch before 0.4)')
    if (!Number.isSafeInteger(length * itemSize(type.dtype))) throw badPickle('a storage below 2^53 bytes', `${length} elements`)
    const known = this.storages.get(key)
    if (known === undefined) {
      const storage = new Storage(key, type.dtype, length, type.name)
      this.storages.set(key, storage)
      return storage
    }
    if (known.className !== type.name || known.length !== length) {
      throw badPickle(`${known.describe()} as torch.${known.className} of ${known.length}`, `torch.${type.name} of ${length}`)
    }
    return known
  }
}

/** `{'neg': True}` and the like mean the stored values are not the tensor's. */
function refuseFlags(metadata: PickleValue | undefined): void {
  if (metadata === undefined || metadata === null) return
  if (metadata instanceof PickleDict && metadata.keys.length === 0) return
  throw badPickle('a tensor without conjugate or negative bits', 'one with them')
}

/** `(storage, offset, size, stride, requires_grad, hooks, …)`, offset and stride in elements. */
function viewOf(items: readonly PickleValue[], dtypeValue: PickleValue | undefined): TensorView {
  const [storage, offset, size, stride] = items
  if (!(storage instanceof Storage) || !isCount(offset)) throw badPickle('a storage and an offset', describe(storage ?? null))
  if (dtypeValue !== undefined && !(dtypeValue instanceof TorchDType)) throw badPickle('a torch dtype', describe(dtypeValue))
  const dtype = dtypeValue?.dtype ?? storage.dtype
  if (dtypeValue === undefined && storage.className === 'UntypedStorage') throw badPickle('a typed storage', storage.describe())
  const shape = axesOf(size)
  const strides = axesOf(stride)
  if (shape.length !== strides.length) throw badPickle(`${shape.length} strides`, String(strides.length))

  const count = exact(shape.reduce((product, length) => product * length, 1))
  const span = count === 0 ? 0 : exact(shape.reduce((sum, length, axis) => sum + (length - 1) * strides[axis]!, 1))
  // Each element its own place: an expanded view could declare any size over one element.
  if (count > span) throw badPickle('a tensor whose elements do not overlap', `shape ${showShape(shape)} with strides ${showShape(strides)}`)
  const byteOffset = exact(offset * itemSize(dtype))
  const byteLength = exact(span * itemSize(dtype))
  if (byteOffset + byteLength > storage.byteLength) {
    throw badPickle(`a tensor within the ${storage.byteLength} bytes of ${storage.describe()}`, `bytes [${byteOffset}, ${byteOffset + byteLength})`)
  }
  return new TensorView(storage, dtype, shape, isRowMajor(shape, strides) ? undefined : strides, byteOffset, byteLength)
}

function axesOf(value: PickleValue | undefined): readonly number[] {
  if (!(value instanceof PickleTuple) || value.items.length > MAX_AXES) throw badPickle(`a tuple of at most ${MAX_AXES} lengths`, describe(value ?? null))
  return value.items.map((item) => {
    if (!isCount(item)) throw badPickle('a length of at least 0', typeof item === 'number' ? String(item) : describe(item))
    return item
  })
}

function isRowMajor(shape: readonly number[], strides: readonly number[]): boolean {
  if (shape.includes(0)) return true
  let expected = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) return false
    expected *= shape[axis]!
  }
  return true
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function exact(value: number): number {
  if (!Number.isSafeInteger(value)) throw badPickle('a tensor below 2^53 bytes', 'a larger one')
  return value
}
