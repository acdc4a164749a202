import { readFileSync, readdirSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { OctetError, type DeviceCapability } from '@octet-llm/core'
import { Allocator, type MemoryStats } from './allocator.js'
import type { Graph } from './graph.js'
import type { NativeLevel } from './native.js'
import { OP_INDEX, OP_NAMES, type OpName } from './op-table.js'
import { Queue } from './queue.js'
import { cudaCapability, cudaLevel } from './cuda.js'
import { cudaRuntime, runtime, type Runtime } from './runtime.js'

/** CPU instruction-set levels, lowest first; a build has those of its processor family. */
export type Isa = 'baseline' | 'avx2' | 'avx512' | 'avx512bf16' | 'neon'

export interface DeviceOptions {
  /** Threads of each queue, its worker included. Default: the physical cores this process may use. */
  readonly threads?: number
  /** CPU level to run; `auto` (default) takes the highest that this CPU supports. */
  readonly isa?: Isa | 'auto'
  /** Microseconds a waiting thread spins before it sleeps. Default 50; 0 sleeps at once. */
  readonly spinMicros?: number
  /** Bytes the device may reserve. Default: the memory of the machine or container. */
  readonly memoryLimit?: number
}

/** What tells one kind of device from another. */
interface DeviceIdentity {
  readonly name: string
  readonly capability: DeviceCapability
  /** The kernel variant an op (by number) ran last, or ''. */
  readonly variant: (op: number) => string
  /** Bytes of memory that nobody holds; Infinity where the limit alone counts. */
  readonly freeBytes: () => number
}

const CPU: DeviceIdentity = { name: 'cpu', capability: { kind: 'cpu', computeCapability: null, cudaVersion: null, cublasLtVersion: null }, variant: () => '', freeBytes: () => Infinity }

/** Threads that serve file reads beside the compute queues. */
const LOAD_THREADS = 4
const MAX_THREADS = 1024

/**
 * A processor that owns memory and ordered queues. Everything enqueued on it is asynchronous; reading is `await`.
 * Open with {@link openDevice}, close with `dispose()`.
 */
export class Device {
  readonly kind: 'cpu' | 'cuda'
  /** `cpu`, or `cuda:0`. */
  readonly name: string
  /** The chosen level: an instruction set, e.g. `avx512bf16`, or a GPU's architecture, e.g. `sm_90`. */
  readonly isa: Isa | `sm_${number}`
  /** Threads of each queue. */
  readonly threads: number
  readonly capability: DeviceCapability
  /** The queue that ops use unless told otherwise. */
  readonly queue: Queue
  /** @internal */
  readonly allocator: Allocator
  /** @internal The graph being recorded on this device. */
  capturing: Graph<unknown> | null = null
  readonly #runtime: Runtime
  readonly #level: number
  readonly #variant: (op: number) => string
  readonly #freeBytes: () => number
  readonly #levelOps: readonly boolean[]
  readonly #spinMicros: number
  readonly #queues = new Set<Queue>()
  readonly #reserved = new Set<number>()
  #loadQueue: Queue | null = null
  #disposal: Promise<void> | null = null

  /** @internal Use {@link openDevice}. */
  constructor(identity: DeviceIdentity, shared: Runtime, level: number, levels: readonly NativeLevel[], options: Required<Omit<DeviceOptions, 'isa'>>) {
    this.kind = identity.capability.kind
    this.name = identity.name
    this.capability = identity.capability
    this.#variant = identity.variant
    this.#freeBytes = identity.freeBytes
    this.#runtime = shared
    this.#level = level
    this.isa = levels[level]!.name as Device['isa']
    this.#levelOps = levels[level]!.ops
    this.threads = options.threads
    this.#spinMicros = options.spinMicros
    const { native } = shared
    this.allocator = new Allocator(
      {
        reserve: (bytes) => {
          const address = native.reserve(level, bytes)
          if (address !== 0) this.#reserved.add(address)
          return address
        },
        release: (address) => {
          this.#reserved.delete(address)
          native.release(level, address)
        },
      },
      options.memoryLimit,
    )
    this.queue = this.#openQueue(options.threads)
  }

  /** True from the call of dispose() on. */
  get disposed(): boolean {
    return this.#disposal !== null
  }

  /**
   * Another ordered queue with its own threads, for work that runs beside the default queue.
   * @throws OctetError `DISPOSED`; `OUT_OF_MEMORY` when the system starts no more threads.
   */
  createQueue(): Queue {
    this.check('createQueue')
    return this.#openQueue(this.threads)
  }

  /**
   * Resolves when every queue has done all that was enqueued so far.
   * @throws OctetError the first failure of any queue; `CAPTURE_READ`; `DISPOSED`.
   */
  async synchronize(): Promise<void> {
    this.check('synchronize')
    const results = await Promise.allSettled([...this.#queues].map((queue) => queue.synchronize()))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  memoryStats(): MemoryStats {
    return this.allocator.stats()
  }

  /** Returns cached free memory to the system, as far as no enqueued op still needs it. Returns the bytes. */
  emptyCache(): number {
    this.check('emptyCache')
    return this.allocator.emptyCache()
  }

  /** Bytes that tensors could still take: of a GPU what nobody holds, of a CPU what `memoryLimit` leaves. */
  get availableBytes(): number {
    return this.allocator.room(this.#freeBytes())
  }

  /**
   * Refuses what cannot fit before any of it is allocated.
   * @param bytes needed in all
   * @param purpose what for, e.g. `the cache of 8 sequences`
   * @throws OctetError `OUT_OF_MEMORY` with the bytes needed and those there are
   */
  checkRoom(bytes: number, { op, purpose, hint }: { readonly op: string; readonly purpose: string; readonly hint?: string }): void {
    const room = this.availableBytes
    if (bytes <= room) return
    throw new OctetError('OUT_OF_MEMORY', { op, expected: `at most ${room} bytes, which ${this.name} has left`, received: `${bytes} bytes for ${purpose}`, ...(hint === undefined ? {} : { hint }) })
  }

  /** The kernel variant that each op runs on this device; `none` marks an op it lacks. */
  kernels(): Record<OpName, string> {
    return Object.fromEntries(OP_NAMES.map((name, i) => [name, this.#levelOps[i] ? this.#variant(i) || this.isa : 'none'])) as Record<OpName, string>
  }

  /** Whether this device has a kernel for the op. */
  supports(op: OpName): boolean {
    return this.#levelOps[OP_INDEX[op]] === true
  }

  /**
   * Refuses new work, waits for work in flight, then frees all memory and threads. Its tensors, queues and graphs end
   * with it. Idempotent.
   */
  dispose(): Promise<void> {
    this.#disposal ??= this.#close()
    return this.#disposal
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }

  // ---- for the package ----

  /** @internal The queue that reads files, opened on first use. */
  get loadQueue(): Queue {
    this.check('upload')
    this.#loadQueue ??= this.#openQueue(Math.min(LOAD_THREADS, this.threads))
    return this.#loadQueue
  }

  /** @internal Index of its level in the native table. */
  get level(): number {
    return this.#level
  }

  /** @internal */
  get runtime(): Runtime {
    return this.#runtime
  }

  /** @internal A queue was drained and closed. */
  retire(queue: Queue): void {
    this.#queues.delete(queue)
    this.allocator.retire(queue, this.queue)
  }

  /** @internal */
  check(op: string): void {
    if (this.disposed) throw new OctetError('DISPOSED', { op, argument: 'device', expected: 'a live device', received: 'a disposed one' })
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#queues].map((queue) => queue.close()))
    for (const address of this.#reserved) this.#runtime.native.release(this.#level, address)
    this.#reserved.clear()
  }

  #openQueue(threads: number): Queue {
    const id = this.#runtime.native.createQueue(this.#level, threads, this.#spinMicros)
    if (id < 0) {
      throw new OctetError('OUT_OF_MEMORY', { op: 'createQueue', expected: `${threads} more threads`, received: 'a refusal of the system', hint: 'raise its thread limit or lower `threads`' })
    }
    const queue = new Queue(this, this.#runtime, id)
    this.#queues.add(queue)
    return queue
  }
}

/**
 * Opens a device. `auto` (default) takes the first GPU where the CUDA binary and a driver are there, else the CPU;
 * `describeBackends` tells why. `isa` and `threads` concern the CPU alone.
 * @throws OctetError `DEVICE_NOT_FOUND`, `INVALID_ARGUMENT`, `NATIVE_NOT_FOUND`, `ABI_MISMATCH`, `DUPLICATE_KERNELS`.
 */
export async function openDevice(name: 'auto' | 'cpu' | 'cuda' | `cuda:${number}` = 'auto', options: DeviceOptions = {}): Promise<Device> {
  if (name !== 'auto' && name !== 'cpu' && !/^cuda(:\d+)?$/.test(name)) {
    throw new OctetError('INVALID_ARGUMENT', { op: 'openDevice', argument: 'name', expected: "'auto', 'cpu', 'cuda' or 'cuda:<index>'", received: String(name) })
  }
  const spinMicros = whole(options.spinMicros ?? 50, 'spinMicros', 0, 1_000_000)
  const threads = whole(options.threads ?? defaultThreads(), 'threads', 1, MAX_THREADS)
  const memory = options.memoryLimit === undefined ? undefined : whole(options.memoryLimit, 'memoryLimit', 1, Number.MAX_SAFE_INTEGER)
  const gpu = name === 'cpu' || (name === 'auto' && options.isa !== undefined) ? null : cudaLevel(name)
  if (gpu !== null) {
    const shared = cudaRuntime()
    const { levels } = shared.native.describe()
    const identity = {
      name: `cuda:${gpu}`,
      capability: cudaCapability(gpu),
      variant: (op: number) => shared.native.lastVariant(gpu, op),
      freeBytes: () => shared.native.freeBytes(gpu),
    }
    return new Device(identity, shared, gpu, levels, { threads: 1, spinMicros, memoryLimit: memory ?? levels[gpu]!.totalBytes! })
  }
  const shared = runtime()
  const { levels } = shared.native.describe()
  return new Device(CPU, shared, chooseLevel(levels, options.isa ?? 'auto'), levels, { threads, spinMicros, memoryLimit: memory ?? machineMemory() })
}

/** The CPU levels of this build, lowest first, and whether this CPU runs them. */
export function listLevels(): { name: Isa; supported: boolean }[] {
  return runtime()
    .native.describe()
    .levels.map(({ name, supported }) => ({ name: name as Isa, supported }))
}

/**
 * Index of the level to run.
 * @internal
 */
export function chooseLevel(levels: readonly NativeLevel[], isa: Isa | 'auto'): number {
  if (isa === 'auto') return levels.findLastIndex((level) => level.supported)
  const index = levels.findIndex((level) => level.name === isa)
  const runnable = levels.filter((level) => level.supported).map((level) => level.name)
  if (index < 0) throw new OctetError('INVALID_ARGUMENT', { op: 'openDevice', argument: 'isa', expected: `auto or one of ${levels.map((l) => l.name).join(', ')}`, received: String(isa) })
  if (!levels[index]!.supported) {
    throw new OctetError('NOT_SUPPORTED', { op: 'openDevice', argument: 'isa', expected: `a level of this CPU: ${runnable.join(', ')}`, received: isa })
  }
  return index
}

function whole(value: number, argument: string, min: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new OctetError('INVALID_ARGUMENT', { op: 'openDevice', argument, expected: `a whole number from ${min} to ${max}`, received: String(value) })
}

/** Memory of the container if it is limited, else of the machine. */
function machineMemory(): number {
  const limit = process.constrainedMemory()
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem()
}

/**
 * Physical cores, as far as affinity and container limits leave them; hyper-threads share a core's vector units.
 * @internal
 */
export function defaultThreads(): number {
  const cores = physicalCores()
  return Math.max(1, Math.min(availableParallelism(), cores ?? Infinity))
}

/** Distinct (package, core) pairs; undefined where the system does not tell. */
function physicalCores(root = '/sys/devices/system/cpu'): number | undefined {
  try {
    const seen = new Set<string>()
    for (const cpu of readdirSync(root)) {
      if (!/^cpu\d+$/.test(cpu)) continue
      seen.add(readFileSync(`${root}/${cpu}/topology/thread_siblings_list`, 'utf8').trim())
    }
    return seen.size > 0 ? seen.size : undefined
  } catch {
    return undefined
  }
}
