import { OctetError, formatShape, sameShape } from '@octet-llm/core'
import { copy, scope, Tensor, type Graph, type Queue } from '@octet-llm/kernels'

import { IndexArrays } from './index-arrays.js'

/** A function of tensors that only enqueues work: a layer's forward, a decode step. */
export type GraphableCallable<A extends readonly Tensor[], R> = (...args: A) => R

/** A callable that replays its recording. */
export interface GraphedCallable<A extends readonly Tensor[], R> {
  /**
   * Copies each argument that is not the static input itself into the static input, then replays. The result is the same
   * tensors every time: read or copy them before the next call.
   * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`
   */
  (...args: A): R
  /** Where the recording reads its arguments; writing there and passing them saves the copy. */
  readonly inputs: A
  /** Frees the recording, its results and its inputs. Idempotent. */
  dispose(): Promise<void>
}

export interface GraphedCallableOptions {
  /**
   * Eager runs before the recording, so that whatever is made once (buffers, tables, arrays from the host) is made outside
   * it. Default 3; a layer's forward needs at least 1.
   */
  readonly warmup?: number
  /**
   * State that a run changes, such as scales and amax histories: it is put back after the warm-up. Random draws need none:
   * they are functions of seed, sequence and position.
   */
  readonly state?: readonly Tensor[]
  /** Default: the queue of the device. */
  readonly queue?: Queue
}

type AnyCallable = (...args: never[]) => unknown
type ArgumentsOf<F> = F extends (...args: infer A extends Tensor[]) => unknown ? A : never
type ResultOf<F> = F extends (...args: never[]) => infer R ? R : never
type Graphed<C extends readonly AnyCallable[]> = { -readonly [K in keyof C]: GraphedCallable<ArgumentsOf<C[K]>, ResultOf<C[K]>> }

/**
 * Records each callable once, on the given shapes and dtypes, into a graph that replays without JavaScript per op; after
 * TransformerEngine's make_graphed_callables. A recording owns the memory of its results and temporaries.
 *
 * @param callables each called with copies of its sample arguments
 * @param sampleArgs for each callable its arguments; only shapes, dtypes and, for the warm-up, contents matter
 * @throws OctetError `INVALID_ARGUMENT`; `CAPTURE_READ` when a callable reads, waits or writes host data. What a callable
 * throws passes through. Nothing stays allocated then.
 */
export function makeGraphedCallables<const C extends readonly AnyCallable[]>(
  callables: C,
  sampleArgs: { readonly [K in keyof C]: Readonly<ArgumentsOf<C[K]>> },
  options: GraphedCallableOptions = {},
): Graphed<C> {
  const { warmup = 3, state = [] } = options
  if (callables.length !== sampleArgs.length) refuse('sampleArgs', `${callables.length} lists of arguments`, String(sampleArgs.length))
  if (!Number.isSafeInteger(warmup) || warmup < 0) refuse('warmup', 'a whole number of at least 0', String(warmup))
  const made: Recording<unknown>[] = []
  try {
    for (const [i, callable] of callables.entries()) {
      const sample: readonly Tensor[] = sampleArgs[i]!
      const queue = options.queue ?? sample[0]?.device.queue ?? refuse(`sampleArgs[${i}]`, 'at least one tensor, or the option queue', 'none')
      made.push(new Recording(callable as GraphableCallable<readonly Tensor[], unknown>, sample, { queue, warmup, state }))
    }
  } catch (error) {
    for (const recording of made) void recording.dispose()
    throw error
  }
  return made.map((recording) => recording.callable()) as unknown as Graphed<C>
}

class Recording<R> {
  readonly #inputs: readonly Tensor[]
  readonly #graph: Graph<R>
  readonly #arrays: IndexArrays
  #disposed = false

  constructor(callable: GraphableCallable<readonly Tensor[], R>, sample: readonly Tensor[], o: { queue: Queue; warmup: number; state: readonly Tensor[] }) {
    const [inputs, saved] = scope(() => [sample, o.state].map((tensors) => tensors.map((x) => copy({ x, queue: o.queue })))) as [Tensor[], Tensor[]]
    this.#inputs = inputs
    this.#arrays = new IndexArrays(o.queue.device)
    try {
      try {
        for (let i = 0; i < o.warmup; i++) disposeAll(this.#arrays.collect(() => callable(...this.#inputs)), this.#inputs)
      } finally {
        for (const [i, x] of saved.entries()) copy({ x, out: o.state[i]!, queue: o.queue })
      }
      // A warm-up may write to its own arguments too.
      for (const [i, x] of sample.entries()) copy({ x, out: this.#inputs[i]!, queue: o.queue })
      this.#graph = o.queue.capture(() => this.#arrays.collect(() => callable(...this.#inputs)))
    } catch (error) {
      for (const x of [...this.#inputs, this.#arrays]) x.dispose()
      throw error
    } finally {
      for (const x of saved) x.dispose()
    }
  }

  callable(): GraphedCallable<readonly Tensor[], R> {
    return Object.assign((...args: readonly Tensor[]) => this.#call(args), { inputs: this.#inputs, dispose: () => this.dispose() })
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    // The graph lets go of the inputs at once and waits only for its replays.
    const done = this.#graph.dispose()
    for (const x of [...this.#inputs, this.#arrays]) x.dispose()
    await done
  }

  #call(args: readonly Tensor[]): R {
    if (this.#disposed) throw new OctetError('DISPOSED', { op: 'graphedCallable', argument: 'graph', expected: 'a live graph', received: 'a disposed one' })
    if (args.length !== this.#inputs.length) refuse('args', `${this.#inputs.length} tensors, as recorded`, String(args.length))
    for (const [i, input] of this.#inputs.entries()) {
      const x = args[i]!
      if (x === input) continue
      if (!sameShape(x.shape, input.shape)) {
        throw new OctetError('SHAPE_MISMATCH', { op: 'graphedCallable', argument: `args[${i}]`, expected: formatShape(input.shape), received: formatShape(x.shape) })
      }
      copy({ x, out: input, queue: this.#graph.queue })
    }
    this.#graph.replay()
    return this.#graph.value
  }
}

/** Disposes the tensors of a result (a tensor, or arrays and plain objects of them) but those that are inputs. */
function disposeAll(value: unknown, inputs: readonly Tensor[]): void {
  if (value instanceof Tensor) {
    if (!inputs.includes(value)) value.dispose()
  } else if (Array.isArray(value)) value.forEach((part) => disposeAll(part, inputs))
  else if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) disposeAll(Object.values(value), inputs)
}

function refuse(argument: string, expected: string, received: string): never {
  throw new OctetError('INVALID_ARGUMENT', { op: 'makeGraphedCallables', argument, expected, received })
}
