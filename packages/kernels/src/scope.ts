import { OctetError } from '@octet-llm/core'

/** What a scope tracks: tensors, without importing them. */
export interface Scoped {
  readonly disposed: boolean
  dispose(): void
}

/** A scope that is open on this thread; null shields a region from the scopes around it. */
type Frame = Set<Scoped> | null
const frames: Frame[] = []

/** Constructions under way on this thread, innermost last; null shields a capture from those around it. */
const constructions: Frame[] = []

/** Registers a new tensor with the innermost scope and construction. */
export function enterScope(tensor: Scoped): void {
  frames.at(-1)?.add(tensor)
  constructions.at(-1)?.add(tensor)
}

export function leaveScope(tensor: Scoped): void {
  for (const made of constructions) made?.delete(tensor)
  for (let i = frames.length - 1; i >= 0; i--) if (frames[i]?.delete(tensor)) return
}

/**
 * Makes a constructor of something with several tensors give all of them or none: one that throws before
 * {@link Construction.complete} frees what it has made so far, tensors moved out of scopes by `keep` included.
 *
 * ```ts
 * using construction = new Construction()
 * this.#k = Tensor.empty(shape, { dtype, device })
 * this.#v = Tensor.empty(shape, { dtype, device })
 * construction.complete()
 * ```
 */
export class Construction implements Disposable {
  readonly #made = new Set<Scoped>()

  constructor() {
    constructions.push(this.#made)
  }

  /** All is there: the tensors belong to their owner, or to the construction around this one. */
  complete(): void {
    this.#leave()
    for (const tensor of this.#made) constructions.at(-1)?.add(tensor)
    this.#made.clear()
  }

  /** Frees what was made, unless all is. */
  [Symbol.dispose](): void {
    this.#leave()
    disposeAll(this.#made)
  }

  #leave(): void {
    const at = constructions.lastIndexOf(this.#made)
    if (at >= 0) constructions.length = at
  }
}

/** Runs `fn` shielded from the scopes around it and returns every tensor made inside and not disposed. */
export function collect<T>(fn: () => T): { value: T; made: Scoped[] } {
  const frame = new Set<Scoped>()
  frames.push(null, frame)
  constructions.push(null)
  try {
    return { value: fn(), made: [...frame] }
  } catch (error) {
    for (const tensor of frame) tensor.dispose()
    throw error
  } finally {
    frames.length -= 2
    constructions.length -= 1
  }
}

/**
 * Runs `fn` and disposes every tensor made inside it on this thread that it does not return. The returned value may be
 * a tensor, or arrays and plain objects of tensors, at any depth; those belong to the enclosing scope, if any.
 *
 * @throws OctetError `INVALID_ARGUMENT` when `fn` returns a promise: tensors made after its first `await` would escape.
 */
export function scope<T>(fn: () => T): T {
  const frame = new Set<Scoped>()
  frames.push(frame)
  let value: T
  try {
    value = fn()
    if (isThenable(value)) {
      throw new OctetError('INVALID_ARGUMENT', {
        op: 'scope',
        argument: 'fn',
        expected: 'a synchronous function',
        received: 'one that returns a promise',
        hint: 'await outside the scope: ops only enqueue, so the function needs no await',
      })
    }
    release(value, frame)
  } finally {
    frames.pop()
    disposeAll(frame)
  }
  return value
}

/**
 * Moves a tensor out of the innermost scope, into the one around it if there is one. A tensor made in a capture stays the
 * graph's. Returns the tensor.
 */
export function keep<T extends Scoped>(tensor: T): T {
  const outer = frames.at(-2)
  // Null: the innermost frame is that of a capture.
  if (outer !== null && frames.at(-1)?.delete(tensor)) outer?.add(tensor)
  return tensor
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

/**
 * Disposes all, also when one refuses; then throws the first refusal. What refused can be disposed again later.
 * @throws OctetError `TENSOR_IN_GRAPH`
 */
export function disposeAll(owners: Iterable<{ dispose(): void } | undefined>): void {
  let refusal: { readonly error: unknown } | undefined
  for (const owner of [...owners]) {
    try {
      owner?.dispose()
    } catch (error) {
      refusal ??= { error }
    }
  }
  if (refusal !== undefined) throw refusal.error
}

/** Hands the tensors inside a returned value to the enclosing scope. */
function release(value: unknown, frame: Set<Scoped>): void {
  if (typeof value !== 'object' || value === null) return
  if (frame.delete(value as Scoped)) {
    frames.at(-2)?.add(value as Scoped)
    return
  }
  if (Array.isArray(value)) {
    for (const item of value) release(item, frame)
    return
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return
  for (const item of Object.values(value)) release(item, frame)
}
