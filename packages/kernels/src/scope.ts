import { OctetError } from '@octet-llm/core'

/** What a scope tracks: tensors, without importing them. */
export interface Scoped {
  readonly disposed: boolean
  dispose(): void
}

/** A scope that is open on this thread; null shields a region from the scopes around it. */
type Frame = Set<Scoped> | null
const frames: Frame[] = []

/** Registers a new tensor with the innermost scope. */
export function enterScope(tensor: Scoped): void {
  frames.at(-1)?.add(tensor)
}

export function leaveScope(tensor: Scoped): void {
  for (let i = frames.length - 1; i >= 0; i--) if (frames[i]?.delete(tensor)) return
}

/** Runs `fn` shielded from the scopes around it and returns every tensor made inside and not disposed. */
export function collect<T>(fn: () => T): { value: T; made: Scoped[] } {
  const frame = new Set<Scoped>()
  frames.push(null, frame)
  try {
    return { value: fn(), made: [...frame] }
  } catch (error) {
    for (const tensor of frame) tensor.dispose()
    throw error
  } finally {
    frames.length -= 2
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

/** Disposes all, also when one refuses; then throws the first refusal. */
function disposeAll(tensors: Iterable<Scoped>): void {
  let refusal: unknown
  for (const tensor of [...tensors]) {
    try {
      tensor.dispose()
    } catch (error) {
      refusal ??= error
    }
  }
  if (refusal !== undefined) throw refusal
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
