/**
 * Ops one behind the other, where the second reads early what the first writes: kernels that start before their predecessors have
 * ended must not see what was there before. Each sequence runs many times with no synchronisation, in buffers that go round and
 * hold another input's values meanwhile, and must give to the bit what it gives with a synchronisation behind every op: eagerly,
 * in a recorded graph, and in that graph on a second queue while the first is at work.
 */
import { OctetError } from '@octet-llm/core'
import type { Device } from '../device.js'
import { embedding, fill } from '../ops/index.js'
import type { Queue } from '../queue.js'
import type { Tensor } from '../tensor.js'
import { INPUTS, Maker, SLOTS, buildersFor, type Sequence, type Stage } from './sequence-cases.js'

export interface SequenceOptions {
  /** Runs of every sequence without a synchronisation. Default 400. */
  readonly repeats?: number
  /** Replays of every graph on each queue. Default 8. */
  readonly replays?: number
  readonly onCheck?: (name: string, fault: string | null) => void
}

/** Runs recorded in a graph. */
const RECORDED = 24

/** Runs of a sequence into the rows of one tensor. */
class Runs {
  readonly results: Tensor
  readonly #stages: readonly (readonly Stage[])[]
  readonly #outs: readonly Tensor[]

  constructor(make: Maker, sequence: Sequence, count: number) {
    const [rows, cols, dtype] = sequence.result
    this.results = make.empty([count * rows, cols], dtype)
    this.#outs = make.each(count, (i) => make.keep(this.results.rows(i * rows, (i + 1) * rows)))
    this.#stages = this.#outs.map((out, i) => sequence.stages(i % INPUTS, i % SLOTS, out))
  }

  enqueue(queue: Queue): void {
    for (const stages of this.#stages) for (const stage of stages) stage(queue)
  }
  async oneByOne(queue: Queue): Promise<void> {
    for (const stages of this.#stages) {
      for (const stage of stages) {
        stage(queue)
        await queue.synchronize()
      }
    }
  }
  /** Which run is not as expected of its input, or null; then the results are spoiled for the next round. */
  async check(wanted: readonly Uint8Array[], queue: Queue): Promise<string | null> {
    await queue.synchronize()
    const bytes = await this.results.toBytes()
    const length = wanted[0]!.length
    let wrong = 0
    let first = -1
    for (let i = 0; i < this.#outs.length; i++) {
      if (Buffer.compare(bytes.subarray(i * length, (i + 1) * length), wanted[i % INPUTS]!) === 0) continue
      if (wrong++ === 0) first = i
    }
    fill({ out: this.results, value: -77, queue })
    await queue.synchronize()
    return wrong === 0 ? null : `${wrong} of ${this.#outs.length} runs differ, the first is run ${first}`
  }
}

/** What each input gives with a synchronisation behind every op; inputs must not agree, or a stale buffer would not show. */
async function expectedOf(make: Maker, sequence: Sequence): Promise<readonly Uint8Array[]> {
  const runs = new Runs(make, sequence, INPUTS)
  await runs.oneByOne(make.device.queue)
  const bytes = await runs.results.toBytes()
  const length = bytes.length / INPUTS
  const wanted = make.each(INPUTS, (i) => bytes.slice(i * length, (i + 1) * length))
  for (let i = 1; i < INPUTS; i++) {
    if (Buffer.compare(wanted[i]!, wanted[0]!) === 0) throw new OctetError('INTERNAL', { op: 'verify', message: `${sequence.name}: two inputs give the same result` })
  }
  return wanted
}

/**
 * Runs every sequence on the device; the names of what failed.
 * @throws OctetError those of a device that does not go on.
 */
export async function runSequences(device: Device, options: SequenceOptions = {}): Promise<{ checks: number; failures: readonly string[] }> {
  const failures: string[] = []
  let checks = 0
  const note: Note = (name, fault) => {
    checks++
    if (fault !== null) failures.push(name)
    options.onCheck?.(name, fault)
  }
  const second = device.createQueue()
  try {
    for (const build of buildersFor(device)) {
      const make = new Maker(device)
      try {
        await runSequence(build, make, second, options, note)
      } finally {
        make.dispose()
      }
    }
    note('a bad index in a graph is the failure of the queue that replays it', await faultOnSecond(device, second))
  } finally {
    await second.dispose()
  }
  return { checks, failures }
}

type Note = (name: string, fault: string | null) => void

async function runSequence(build: (make: Maker) => Sequence, make: Maker, second: Queue, { repeats = 400, replays = 8 }: SequenceOptions, note: Note): Promise<void> {
  const { queue } = make.device
  const sequence = build(make)
  const wanted = await expectedOf(make, sequence)
  const eager = new Runs(make, sequence, repeats)
  eager.enqueue(queue)
  note(`${sequence.name}: eager`, await eager.check(wanted, queue))
  const recorded = new Runs(make, sequence, RECORDED)
  const graph = queue.capture(() => recorded.enqueue(queue))
  try {
    const faults: (string | null)[] = []
    for (let i = 0; i < replays; i++) {
      graph.replay()
      faults.push(await recorded.check(wanted, queue))
    }
    note(`${sequence.name}: in a graph`, faults.find((fault) => fault !== null) ?? null)
    // The same ops beside it, in buffers of their own, on the queue whose workspace the graph was first made for.
    const other = build(make)
    const otherWanted = await expectedOf(make, other)
    const beside = new Runs(make, other, RECORDED)
    const apart: (string | null)[] = []
    for (let i = 0; i < replays; i++) {
      graph.replay(second)
      beside.enqueue(queue)
      apart.push(await recorded.check(wanted, second), await beside.check(otherWanted, queue))
      if (i % 2 === 1) continue
      graph.replay()
      apart.push(await recorded.check(wanted, queue))
    }
    note(`${sequence.name}: in that graph on a second queue`, apart.find((fault) => fault !== null) ?? null)
  } finally {
    await graph.dispose()
  }
}

async function faultOnSecond(device: Device, second: Queue): Promise<string | null> {
  const make = new Maker(device)
  const { queue } = device
  const [ids, table, out] = [make.ints([0, 1]), make.random([4, 16], 'bf16'), make.empty([2, 16], 'bf16')]
  const graph = queue.capture(() => embedding({ ids, table, out }))
  try {
    graph.replay()
    ids.write(Int32Array.of(0, 99))
    await queue.synchronize()
    graph.replay(second)
    const first = await queue.synchronize().then(() => 'success', (error: unknown) => codeOf(error))
    const after = await second.synchronize().then(() => 'success', (error: unknown) => codeOf(error))
    return first === 'success' && after === 'OP_FAILED' ? null : `the recording queue gave ${first}, the replaying one ${after}`
  } finally {
    await graph.dispose()
    make.dispose()
  }
}

function codeOf(error: unknown): string {
  return OctetError.is(error) ? error.code : String(error)
}
