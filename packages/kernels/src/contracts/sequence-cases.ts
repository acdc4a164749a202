/** The sequences of {@link runSequences}: ops whose second reads early, on a GPU, what the first writes. */
import type { Device } from '../device.js'
import type { TensorDType } from '../dtype-codes.js'
import type { QuantizedTensor } from '../ops/call.js'
import { add, attention, copy, dequantize, gatedActivation, kvAppend, linear, quantize, randomWeights, rmsNorm, updateScale } from '../ops/index.js'
import type { Queue } from '../queue.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'

/** Other contents for the same buffers, and sets of buffers that go round; coprime, so that no buffer meets the same input twice in a row. */
export const INPUTS = 4
export const SLOTS = 3

export type Stage = (queue: Queue) => void
export interface Sequence {
  readonly name: string
  /** Rows, columns and dtype of a run's result. */
  readonly result: readonly [rows: number, cols: number, dtype: TensorDType]
  /** The ops of a run in their order: from an input, in a set of buffers, into `out`. */
  stages(input: number, slot: number, out: Tensor): readonly Stage[]
}

/** Tensors of one device with made-up contents, disposed together. */
export class Maker {
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
export function buildersFor(device: Device): readonly ((make: Maker) => Sequence)[] {
  const weights = device.kind === 'cuda' ? [256, 8192] : [256]
  const quantizing = weights.flatMap((N) => [3, 16].map((rows) => (make: Maker) => quantizeThenLinear(make, rows, N)))
  return [...quantizing, activationThenLinear, addThenNorm, normThenNorm, scaleThenQuantize, appendThenAttend]
}
