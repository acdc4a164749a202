/**
 * Ops one behind the other, where the second reads early what the first writes: kernels that start before their predecessors have
 * ended must not see what was there before. Each sequence runs many times with no synchronisation, in buffers that go round and
 * hold another input's values meanwhile, and must give to the bit what it gives with a synchronisation behind every op: eagerly,
 * in a recorded graph, and in that graph on a second queue while the first is at work.
 */
import { OctetError } from '@octet-llm/core'
import type { Device } from '../device.js'
import type { TensorDType } from '../dtype-codes.js'
import type { QuantizedTensor } from '../ops/call.js'
import { add, attention, copy, dequantize, embedding, fill, gatedActivation, kvAppend, linear, quantize, randomWeights, rmsNorm, updateScale } from '../ops/index.js'
import type { Queue } from '../queue.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'

export interface SequenceOptions {
  /** Runs of every sequence without a synchronisation. Default 400. */
  readonly repeats?: number
  /** Replays of every graph on each queue. Default 8. */
  readonly replays?: number
  readonly onCheck?: (name: string, fault: string | null) => void
}

/** Other contents for the same buffers, and sets of buffers that go round; coprime, so that no buffer meets the same input twice in a row. */
const INPUTS = 4
const SLOTS = 3
/** Runs recorded in a graph. */
const RECORDED = 24

type Stage = (queue: Queue) => void
interface Sequence {
  readonly name: string
  /** Rows, columns and dtype of a run's result. */
  readonly result: readonly [rows: number, cols: number, dtype: TensorDType]
  /** The ops of a run in their order: from an input, in a set of buffers, into `out`. */
  stages(input: number, slot: number, out: Tensor): readonly Stage[]
}

/** Tensors of one device with made-up contents, disposed together. */
class Maker {
  #seed = 1
  readonly #made: Tensor[] = []
  constructor(readonly device: Device) {}

  keep<T extends Tensor>(tensor: T): T {
    this.#made.push(tensor)
    return tensor
  }
  dispose(): void {
    for (const tensor of this.#made.reverse()) tensor.dispose()
  }
  empty(shape: readonly number[], dtype: TensorDType): Tensor {
    return this.keep(Tensor.zeros(shape, { dtype, device: this.device }))
  }
  random(shape: readonly number[], dtype: 'f32' | 'bf16', std = 1): Tensor {
    const out = this.empty(shape, dtype)
    randomWeights({ out, seed: this.#seed++, std })
    return out
  }
  ints(values: readonly number[], shape: readonly number[] = [values.length]): Tensor {
    return this.keep(Tensor.from(Int32Array.from(values), { shape, dtype: 'i32', device: this.device }))
  }
  byRow(rows: number, cols: number): QuantizedTensor {
    return { data: this.empty([rows, cols], 'e4m3'), scaleInv: this.empty([rows], 'f32'), granularity: 'row' }
  }
  /** Activations in FP8. */
  quantized(rows: number, cols: number): QuantizedTensor {
    return quantize({ x: this.random([rows, cols], 'bf16'), ...this.byRow(rows, cols) })
  }
  /** One for each input or set of buffers. */
  each<T>(count: number, make: (index: number) => T): readonly T[] {
    return Array.from({ length: count }, (_, i) => make(i))
  }
}

function quantizeThenLinear(make: Maker, rows: number, N: number): Sequence {
  const K = 4096
  const weights = make.each(INPUTS, () => make.random([N, K], 'bf16'))
  const slots = make.each(SLOTS, () => make.byRow(N, K))
  const x = make.quantized(rows, K)
  return {
    name: `quantize, linear of ${rows} rows by that weight of ${N}`,
    result: [rows, N, 'f32'],
    stages: (input, slot, out) => [
      (queue) => void quantize({ x: weights[input]!, ...slots[slot]!, queue }),
      (queue) => void linear({ x, weight: slots[slot]!, out, queue }),
    ],
  }
}

function activationThenLinear(make: Maker): Sequence {
  const [N, K] = [128, 4096]
  const gates = make.each(INPUTS, () => make.random([N, 2 * K], 'bf16'))
  const slots = make.each(SLOTS, () => make.byRow(N, K))
  const x = make.quantized(2, K)
  return {
    name: 'gatedActivation in FP8, linear by it',
    result: [2, N, 'f32'],
    stages: (input, slot, out) => [
      (queue) => void gatedActivation({ x: gates[input]!, kind: 'swiglu', quantized: slots[slot]!, queue }),
      (queue) => void linear({ x, weight: slots[slot]!, out, queue }),
    ],
  }
}

function addThenNorm(make: Maker): Sequence {
  const D = 4096
  const [a, b] = [make.each(INPUTS, () => make.random([D], 'bf16')), make.random([D], 'bf16')]
  const slots = make.each(SLOTS, () => make.empty([D], 'bf16'))
  const x = make.random([2, D], 'bf16')
  return {
    name: 'add, rmsNorm with the sum as its weight',
    result: [2, D, 'bf16'],
    stages: (input, slot, out) => [(queue) => void add({ a: a[input]!, b, out: slots[slot]!, queue }), (queue) => void rmsNorm({ x, weight: slots[slot]!, out, queue })],
  }
}

function normThenNorm(make: Maker): Sequence {
  const D = 4096
  const rows = make.each(INPUTS, () => make.random([1, D], 'bf16'))
  const slots = make.each(SLOTS, () => make.empty([1, D], 'bf16'))
  const [x, weight] = [make.random([2, D], 'bf16'), make.random([D], 'bf16')]
  return {
    name: 'rmsNorm, rmsNorm with its row as the weight',
    result: [2, D, 'bf16'],
    stages: (input, slot, out) => [
      (queue) => void rmsNorm({ x: rows[input]!, weight, out: slots[slot]!, queue }),
      (queue) => void scope(() => void rmsNorm({ x, weight: slots[slot]!.view([D]), out, queue })),
    ],
  }
}

function scaleThenQuantize(make: Maker): Sequence {
  const [N, K] = [4, 2048]
  const histories = make.each(INPUTS, (i) => make.keep(Tensor.from(Float32Array.from({ length: 16 }, (_, at) => 1 + i + at / 7), { shape: [1, 16], dtype: 'f32', device: make.device })))
  const slots = make.each(SLOTS, () => ({ amaxHistory: make.empty([1, 16], 'f32'), scale: make.empty([1], 'f32'), data: make.empty([N, K], 'e4m3'), scaleInv: make.empty([1], 'f32'), granularity: 'tensor' as const }))
  const x = make.random([N, K], 'bf16')
  return {
    name: 'updateScale, quantize by that scale',
    result: [N, K, 'f32'],
    stages: (input, slot, out) => {
      const { amaxHistory, scale, ...target } = slots[slot]!
      return [
        (queue) => void copy({ x: histories[input]!, out: amaxHistory, queue }),
        (queue) => void updateScale({ amaxHistory, scale, fp8Max: 448, queue }),
        (queue) => void quantize({ x, scale, ...target, queue }),
        (queue) => void dequantize({ x: target, out, queue }),
      ]
    },
  }
}

function appendThenAttend(make: Maker): Sequence {
  const [B, T, H, Hkv, D, pageSize] = [4, 48, 8, 2, 64, 64]
  const [keys, values] = [make.each(INPUTS, () => make.random([B * T, Hkv * D], 'bf16')), make.each(INPUTS, () => make.random([B * T, Hkv * D], 'bf16'))]
  const pageTable = make.ints([2, 0, 3, 1], [B, 1])
  const slots = make.each(SLOTS, () => ({ kCache: make.empty([B, Hkv, pageSize, D], 'bf16'), vCache: make.empty([B, Hkv, pageSize, D], 'bf16'), pageTable }))
  const rowOf = make.ints(Array.from({ length: B * T }, (_, i) => Math.floor(i / T)))
  const positions = make.ints(Array.from({ length: B * T }, (_, i) => i % T))
  const q = make.random([B, H * D], 'bf16')
  const [cuSeqlensQ, kvLens] = [make.ints([0, 1, 2, 3, 4]), make.ints([T, T, T, T])]
  return {
    name: 'kvAppend, attention over the cache',
    result: [B, H * D, 'bf16'],
    stages: (input, slot, out) => [
      (queue) => void kvAppend({ k: keys[input]!, v: values[input]!, rowOf, positions, kvHeads: Hkv, headDim: D, ...slots[slot]!, queue }),
      (queue) => void attention({ q, cuSeqlensQ, kvLens, heads: H, kvHeads: Hkv, headDim: D, maxSeqlenQ: 1, maxSeqlenKv: pageSize, ...slots[slot]!, out, queue }),
    ],
  }
}

/** On a GPU a weight of several waves of thread blocks too. */
function buildersFor(device: Device): readonly ((make: Maker) => Sequence)[] {
  const weights = device.kind === 'cuda' ? [256, 8192] : [256]
  const quantizing = weights.flatMap((N) => [3, 16].map((rows) => (make: Maker) => quantizeThenLinear(make, rows, N)))
  return [...quantizing, activationThenLinear, addThenNorm, normThenNorm, scaleThenQuantize, appendThenAttend]
}

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
