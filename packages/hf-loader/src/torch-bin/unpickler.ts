import { isUtf8 } from 'node:buffer'
import { OP, REFUSED_OPCODES } from './opcodes.js'
import { badPickle, describe, PickleDict, PickleList, PickleTruncated, PickleTuple, unsafePickle, type PickleValue } from './pickle-values.js'

/** What the embedder decides. Each throws a PickleFault to refuse. */
export interface PickleHandlers {
  global(module: string, name: string): PickleValue
  reduce(callable: PickleValue, args: PickleTuple): PickleValue
  persistentLoad(id: PickleValue): PickleValue
}

/** Values on the stack at once: a dictionary of tensors needs 2000, an unbatched one 2 a tensor. */
const MAX_STACK = 1_000_000
const MAX_STRING_BYTES = 2 ** 20
const MAX_GLOBAL_BYTES = 256

/**
 * Heap the values may take, by estimate: this much, and so many bytes a byte of pickle. The pickle of a model comes to 11
 * to 15 (about 9 measured). The limit keeps opcodes of one or two bytes that make objects of hundreds from filling memory.
 */
const FREE_HEAP_BYTES = 32 * 2 ** 20
const HEAP_PER_BYTE = 14
const COST = { number: 16, string: 24, tuple: 72, slot: 8, list: 72, dict: 120, firstItem: 136, memo: 40, object: 176 } as const

const EMPTY_TUPLE = new PickleTuple([])

/**
 * Runs one protocol 2 pickle with the opcodes of `OP` only. Nothing is called or built but what `handlers` allow; work is
 * linear in the bytes, memory is bounded by them, and there is no recursion.
 */
export class Unpickler {
  private bytes: Buffer = Buffer.alloc(0)
  private at: number
  /** Where the opcode began that is being run: what a truncated run goes back to. */
  private opcodeAt: number
  private heap = 0
  private readonly stack: PickleValue[] = []
  private readonly marks: number[] = []
  private readonly memo = new Map<number, PickleValue>()

  constructor(
    private readonly start: number,
    private readonly handlers: PickleHandlers,
  ) {
    this.at = start
    this.opcodeAt = start
  }

  /**
   * Runs on from where the last call stopped.
   * @param bytes the file from its beginning; longer than before after a PickleTruncated.
   * @returns the value, and where the pickle ended.
   * @throws PickleFault `UNSAFE_PICKLE`, `INVALID_TORCH_FILE`; PickleTruncated when the bytes end first.
   */
  run(bytes: Buffer): { value: PickleValue; end: number } {
    this.bytes = bytes
    this.at = this.opcodeAt
    for (;;) {
      this.opcodeAt = this.at
      const opcode = this.byte()
      if (opcode === OP.STOP) return { value: this.result(), end: this.at }
      // Every opcode takes all its bytes before it changes anything, so one that is cut can be run again.
      if (!this.scalar(opcode) && !this.container(opcode) && !this.object(opcode)) throw this.refused(opcode)
      if (this.stack.length > MAX_STACK) throw badPickle(`at most ${MAX_STACK} values on the stack`, 'more')
    }
  }

  /** Opcodes that push one plain value. */
  private scalar(opcode: number): boolean {
    switch (opcode) {
      case OP.PROTO: {
        const protocol = this.byte()
        if (protocol !== 2) throw badPickle('pickle protocol 2', `protocol ${protocol}`)
        return true
      }
      case OP.NONE:
        return this.push(null)
      case OP.NEWTRUE:
        return this.push(true)
      case OP.NEWFALSE:
        return this.push(false)
      case OP.BININT1:
        return this.push(this.byte())
      case OP.BININT2:
        return this.push(this.bytes.readUInt16LE(this.take(2)))
      case OP.BININT:
        return this.push(this.bytes.readInt32LE(this.take(4)), COST.number)
      case OP.BINFLOAT:
        return this.push(this.bytes.readDoubleBE(this.take(8)), COST.number)
      case OP.LONG1:
        return this.push(this.long(this.byte()), COST.number)
      case OP.BINUNICODE:
        return this.push(this.string(this.bytes.readUInt32LE(this.take(4))), COST.string)
      default:
        return false
    }
  }

  /** Opcodes of tuples, lists, dictionaries and marks. */
  private container(opcode: number): boolean {
    switch (opcode) {
      case OP.MARK:
        this.charge(COST.slot)
        if (this.marks.length >= MAX_STACK) throw badPickle(`at most ${MAX_STACK} marks`, 'more')
        this.marks.push(this.stack.length)
        return true
      case OP.EMPTY_TUPLE:
        return this.push(EMPTY_TUPLE)
      case OP.TUPLE1:
      case OP.TUPLE2:
      case OP.TUPLE3:
        return this.tuple(this.popMany(opcode - OP.TUPLE1 + 1))
      case OP.TUPLE:
        return this.tuple(this.popToMark())
      case OP.EMPTY_LIST:
        return this.push(new PickleList(), COST.list)
      case OP.EMPTY_DICT:
        return this.push(new PickleDict(), COST.dict)
      case OP.APPEND:
        return this.append(this.popMany(1))
      case OP.APPENDS:
        return this.append(this.popToMark())
      case OP.SETITEM:
        return this.setItems(this.popMany(2))
      case OP.SETITEMS:
        return this.setItems(this.popToMark())
      default:
        return false
    }
  }

  /** Opcodes of the memo, and those that ask the embedder. */
  private object(opcode: number): boolean {
    switch (opcode) {
      case OP.BINPUT:
        return this.remember(this.byte())
      case OP.LONG_BINPUT:
        return this.remember(this.bytes.readUInt32LE(this.take(4)))
      case OP.BINGET:
        return this.push(this.recall(this.byte()))
      case OP.LONG_BINGET:
        return this.push(this.recall(this.bytes.readUInt32LE(this.take(4))))
      case OP.GLOBAL:
        return this.push(this.handlers.global(this.line(), this.line()), COST.string)
      case OP.BINPERSID:
        return this.push(this.handlers.persistentLoad(this.pop()), COST.object)
      case OP.REDUCE: {
        const args = this.pop()
        const callable = this.pop()
        if (!(args instanceof PickleTuple)) throw badPickle('arguments in a tuple', describe(args))
        return this.push(this.handlers.reduce(callable, args), COST.object)
      }
      case OP.BUILD:
        return this.build()
      default:
        return false
    }
  }

  /** Attributes of an OrderedDict (a state_dict's `_metadata`): nothing here reads them. */
  private build(): true {
    this.pop()
    const target = this.top()
    if (!(target instanceof PickleDict)) throw badPickle('attributes of a dictionary', `attributes of ${describe(target)}`)
    return true
  }

  private result(): PickleValue {
    if (this.marks.length > 0 || this.stack.length !== 1) throw badPickle('one value at the end', `${this.stack.length} values`)
    return this.stack[0]!
  }

  private refused(opcode: number): Error {
    const name = REFUSED_OPCODES.get(opcode)
    const at = `at byte ${this.at - 1 - this.start}`
    if (name === undefined) return badPickle('a pickle opcode', `byte 0x${opcode.toString(16)} ${at}`)
    return unsafePickle('the opcodes of a plain dictionary of tensors', `opcode ${name} ${at}`)
  }

  private push(value: PickleValue, cost: number = 0): true {
    this.charge(cost + COST.slot)
    this.stack.push(value)
    return true
  }

  private tuple(items: PickleValue[]): true {
    return this.push(new PickleTuple(items), COST.tuple + items.length * COST.slot)
  }

  private append(items: PickleValue[]): true {
    const list = this.top()
    if (!(list instanceof PickleList)) throw badPickle('a list to append to', describe(list))
    this.charge(items.length * 2 * COST.slot + (list.items.length === 0 ? COST.firstItem : 0))
    for (const item of items) list.items.push(item)
    return true
  }

  private setItems(items: PickleValue[]): true {
    const dict = this.top()
    if (!(dict instanceof PickleDict)) throw badPickle('a dictionary to fill', describe(dict))
    if (items.length % 2 !== 0) throw badPickle('pairs of key and value', `${items.length} values`)
    this.charge(items.length * 2 * COST.slot + (dict.keys.length === 0 ? 2 * COST.firstItem : 0))
    for (let i = 0; i < items.length; i += 2) {
      dict.keys.push(items[i]!)
      dict.values.push(items[i + 1]!)
    }
    return true
  }

  private remember(index: number): true {
    this.charge(COST.memo)
    this.memo.set(index, this.top())
    return true
  }

  private recall(index: number): PickleValue {
    const value = this.memo.get(index)
    if (value === undefined) throw badPickle('a memo that was set', `memo ${index}`)
    return value
  }

  /** The value above the last mark; what lies below a mark belongs to the container that will close it. */
  private top(): PickleValue {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) throw badPickle('a value on the stack', 'none')
    return this.stack.at(-1)!
  }

  private pop(): PickleValue {
    const value = this.top()
    this.stack.pop()
    return value
  }

  private popMany(count: number): PickleValue[] {
    const from = this.stack.length - count
    if (from < (this.marks.at(-1) ?? 0)) throw badPickle(`${count} values on the stack`, 'fewer')
    return this.stack.splice(from)
  }

  private popToMark(): PickleValue[] {
    const mark = this.marks.pop()
    if (mark === undefined) throw badPickle('a mark on the stack', 'none')
    return this.stack.splice(mark)
  }

  private byte(): number {
    return this.bytes[this.take(1)]!
  }

  /** Passes `count` bytes and returns where they begin. */
  private take(count: number): number {
    const from = this.at
    if (from + count > this.bytes.length) throw new PickleTruncated()
    this.at = from + count
    return from
  }

  private string(length: number): string {
    if (length > MAX_STRING_BYTES) throw badPickle(`a string of at most ${MAX_STRING_BYTES} bytes`, `${length} bytes`)
    const from = this.take(length)
    this.charge(length)
    if (!isUtf8(this.bytes.subarray(from, this.at))) throw badPickle('text in UTF-8', 'other bytes')
    return this.bytes.toString('utf8', from, this.at)
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at)
    if (end - this.at > MAX_GLOBAL_BYTES) throw badPickle(`a global's name of at most ${MAX_GLOBAL_BYTES} bytes`, 'a longer one')
    if (end < 0) {
      if (this.bytes.length - this.at > MAX_GLOBAL_BYTES) throw badPickle(`a global's name of at most ${MAX_GLOBAL_BYTES} bytes`, 'a longer one')
      throw new PickleTruncated()
    }
    const from = this.take(end + 1 - this.at)
    return this.bytes.toString('latin1', from, end)
  }

  /** Two's complement, little-endian. */
  private long(length: number): number | bigint {
    const from = this.take(length)
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[from + i]!)
    if (length > 0) value = BigInt.asIntN(8 * length, value)
    const exact = value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
    return exact ? Number(value) : value
  }

  private charge(heapBytes: number): void {
    this.heap += heapBytes
    if (this.heap > FREE_HEAP_BYTES + HEAP_PER_BYTE * (this.at - this.start)) {
      throw badPickle('a pickle whose values fit its size', 'one that builds far more than it holds')
    }
  }
}
