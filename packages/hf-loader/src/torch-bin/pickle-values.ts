import type { ErrorCode } from '@octet-llm/core'

/** What a pickle of tensors is made of. Containers are classes so that a kind can be told without looking inside. */
export type PickleValue = null | boolean | number | bigint | string | PickleTuple | PickleList | PickleDict | PickleObject

export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

export class PickleList {
  readonly items: PickleValue[] = []
}

/** Entries in the order they were set; a repeated key is the later reader's to judge. */
export class PickleDict {
  readonly keys: PickleValue[] = []
  readonly values: PickleValue[] = []
}

/** Anything the embedder makes: an allowed global, a storage, a tensor. */
export abstract class PickleObject {
  /** What it is, for messages. */
  abstract describe(): string
}

/** Kind of a value for messages. */
export function describe(value: PickleValue): string {
  if (value === null) return 'None'
  if (value instanceof PickleTuple) return 'a tuple'
  if (value instanceof PickleList) return 'a list'
  if (value instanceof PickleDict) return 'a dictionary'
  if (value instanceof PickleObject) return value.describe()
  if (typeof value === 'bigint') return 'a number'
  return `a ${typeof value}`
}

/** A pickle that is refused; its reader adds the file. */
export class PickleFault extends Error {
  constructor(
    readonly code: ErrorCode,
    readonly expected: string,
    readonly received: string,
    readonly hint?: string,
  ) {
    super(`expected ${expected}, received ${received}`)
  }
}

/** The bytes end inside the pickle: more of the file may help. */
export class PickleTruncated extends PickleFault {
  constructor() {
    super('INVALID_TORCH_FILE', 'a whole pickle', 'one that ends early')
  }
}

export function badPickle(expected: string, received: string, hint?: string): PickleFault {
  return new PickleFault('INVALID_TORCH_FILE', expected, received, hint)
}

export function unsafePickle(expected: string, received: string): PickleFault {
  return new PickleFault('UNSAFE_PICKLE', expected, received, 'load a safetensors form of this model, or convert the file where you trust it')
}
