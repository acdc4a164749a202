/** What the wrappers refuse and what they make. Numbers are checked by the contracts. */
import { OctetError, type ErrorCode, type Shape } from '@octet-llm/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '../device.js'
import type { TensorDType } from '../dtype-codes.js'
import { OP_NAMES, type OpName } from '../op-table.js'
import { Tensor } from '../tensor.js'
import * as wrappers from './index.js'

let device: Device
let foreign: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  foreign = await openDevice('cpu', { threads: 1 })
})
afterAll(async () => {
  await device.dispose()
  await foreign.dispose()
})

const made: Tensor[] = []
const t = (shape: Shape, dtype: TensorDType = 'f32'): Tensor => {
  const tensor = Tensor.zeros(shape, { dtype, device })
  made.push(tensor)
  return tensor
}
const i32 = (...values: number[]): Tensor => {
  const tensor = Tensor.from(values, { dtype: 'i32', device })
  made.push(tensor)
  return tensor
}

type Options = Record<string, unknown>
/** [changed options, code, argument named]. */
type Refusal = readonly [change: () => Options, code: ErrorCode, argument: string]
interface Row {
  readonly good: () => Options
  /** [shape, dtype] of the result(s). */
  readonly makes?: readonly (readonly [Shape, TensorDType])[]
  readonly refuses: readonly Refusal[]
}

const pageTable = (): Tensor => i32(0, 1, 2, 3).view([2, 2])
const cache = (): Options => ({ kCache: t([4, 2, 8, 4]), vCache: t([4, 2, 8, 4]), pageTable: pageTable() })
const rotation = (): Options => ({ headDim: 4, positions: i32(0, 1, 2), cos: t([5, 2]), sin: t([5, 2]) })

const TABLE: Readonly<Record<string, Row>> = {
  fill: {
    good: () => ({ out: t([2, 3], 'i64'), value: 3 }),
    makes: [[[2, 3], 'i64']],
    refuses: [[() => ({ value: '1' }), 'INVALID_ARGUMENT', 'value']],
  },
  copy: {
    good: () => ({ x: t([2, 3], 'u8') }),
    makes: [[[2, 3], 'u8']],
    refuses: [
      [() => ({ out: t([3, 2], 'u8') }), 'SHAPE_MISMATCH', 'out'],
      [() => ({ out: t([2, 3], 'i32') }), 'DTYPE_MISMATCH', 'out'],
    ],
  },
  cast: {
    good: () => ({ x: t([2, 3]), dtype: 'bf16' }),
    makes: [[[2, 3], 'bf16']],
    refuses: [
      [() => ({ dtype: undefined }), 'INVALID_ARGUMENT', 'dtype'],
      [() => ({ dtype: 'u8' }), 'INVALID_ARGUMENT', 'dtype'],
      [() => ({ x: t([2, 3], 'f64'), dtype: 'f64' }), 'INVALID_ARGUMENT', 'dtype'],
      [() => ({ out: t([6], 'bf16') }), 'SHAPE_MISMATCH', 'out'],
    ],
  },
  add: {
    good: () => ({ a: t([2, 3]), b: t([2, 3], 'bf16') }),
    makes: [[[2, 3], 'f32']],
    refuses: [
      [() => ({ b: t([2, 4]) }), 'SHAPE_MISMATCH', 'b'],
      [() => ({ a: t([2, 3], 'f16') }), 'DTYPE_MISMATCH', 'a'],
      [() => ({ out: t([2, 3], 'i32') }), 'DTYPE_MISMATCH', 'out'],
    ],
  },
  scale: {
    good: () => ({ x: t([2, 3], 'bf16'), factor: 2 }),
    makes: [[[2, 3], 'bf16']],
    refuses: [[() => ({ factor: Infinity }), 'INVALID_ARGUMENT', 'factor']],
  },
  softcap: {
    good: () => ({ x: t([2, 3]), cap: 30 }),
    makes: [[[2, 3], 'f32']],
    refuses: [
      [() => ({ cap: 0 }), 'INVALID_ARGUMENT', 'cap'],
      [() => ({ cap: NaN }), 'INVALID_ARGUMENT', 'cap'],
    ],
  },
  embedding: {
    good: () => ({ ids: i32(0, 1, 2), table: t([4, 6], 'f16') }),
    makes: [[[3, 6], 'bf16']],
    refuses: [
      [() => ({ ids: t([3]) }), 'DTYPE_MISMATCH', 'ids'],
      [() => ({ table: t([6]) }), 'SHAPE_MISMATCH', 'table'],
      [() => ({ out: t([2, 6]) }), 'SHAPE_MISMATCH', 'out'],
      [() => ({ dtype: 'f16' }), 'DTYPE_MISMATCH', 'dtype'],
      [() => ({ scale: NaN }), 'INVALID_ARGUMENT', 'scale'],
    ],
  },
  gatherRows: {
    good: () => ({ x: t([4, 3], 'i64'), rows: i32(3, 0) }),
    makes: [[[2, 3], 'i64']],
    refuses: [
      [() => ({ rows: t([2]) }), 'DTYPE_MISMATCH', 'rows'],
      [() => ({ out: t([3, 3], 'i64') }), 'SHAPE_MISMATCH', 'out'],
    ],
  },
  scatterRows: {
    good: () => ({ x: t([2, 3]), rows: i32(3, 0), out: t([4, 3]) }),
    makes: [[[4, 3], 'f32']],
    refuses: [
      [() => ({ rows: i32(1) }), 'SHAPE_MISMATCH', 'rows'],
      [() => ({ out: t([4, 2]) }), 'SHAPE_MISMATCH', 'out'],
      [() => ({ out: undefined }), 'INVALID_ARGUMENT', 'out'],
    ],
  },
  rmsNorm: {
    good: () => ({ x: t([2, 3, 8], 'bf16'), weight: t([8]), residual: t([6, 8]), residualOut: t([2, 3, 8]) }),
    makes: [[[2, 3, 8], 'bf16']],
    refuses: [
      [() => ({ weight: t([7]) }), 'SHAPE_MISMATCH', 'weight'],
      [() => ({ weight: t([1, 8]) }), 'SHAPE_MISMATCH', 'weight'],
      [() => ({ residual: t([5, 8]) }), 'SHAPE_MISMATCH', 'residual'],
      [() => ({ residualOut: t([6, 7]) }), 'SHAPE_MISMATCH', 'residualOut'],
      [() => ({ eps: -1 }), 'INVALID_ARGUMENT', 'eps'],
    ],
  },
  layerNorm: {
    good: () => ({ x: t([2, 8]), weight: t([8]), bias: t([8], 'bf16') }),
    makes: [[[2, 8], 'f32']],
    refuses: [
      [() => ({ bias: t([9]) }), 'SHAPE_MISMATCH', 'bias'],
      [() => ({ weight: t([8], 'e4m3') }), 'DTYPE_MISMATCH', 'weight'],
      [() => ({ eps: '1' }), 'INVALID_ARGUMENT', 'eps'],
    ],
  },
  linear: {
    good: () => ({ x: t([2, 3, 200]), weight: { data: t([140, 200], 'e4m3'), scaleInv: t([2, 2]), granularity: 'block128x128' }, bias: t([140]), residual: t([6, 140]) }),
    makes: [[[2, 3, 140], 'f32']],
    refuses: [
      [() => ({ weight: t([140, 199]) }), 'SHAPE_MISMATCH', 'weight'],
      [() => ({ weight: t([140, 200], 'i32') }), 'DTYPE_MISMATCH', 'weight'],
      [() => ({ weight: undefined }), 'INVALID_ARGUMENT', 'weight'],
      [() => ({ weight: { data: t([140, 200]), scaleInv: t([1]), granularity: 'tensor' } }), 'DTYPE_MISMATCH', 'weight.data'],
      [() => ({ weight: { data: t([140, 200], 'e5m2'), scaleInv: t([140]), granularity: 'column' } }), 'INVALID_ARGUMENT', 'weight.granularity'],
      [() => ({ weight: { data: t([140, 200], 'e5m2'), scaleInv: t([139]), granularity: 'row' } }), 'SHAPE_MISMATCH', 'weight.scaleInv'],
      [() => ({ weight: { data: t([140, 200], 'e5m2'), scaleInv: t([2, 70]), granularity: 'row' } }), 'SHAPE_MISMATCH', 'weight.scaleInv'],
      [() => ({ weight: { data: t([140, 200], 'e5m2'), scaleInv: t([4]), granularity: 'block128x128' } }), 'SHAPE_MISMATCH', 'weight.scaleInv'],
      [() => ({ weight: { data: t([140, 200], 'e5m2'), scaleInv: t([140, 2], 'bf16'), granularity: 'block1x128' } }), 'DTYPE_MISMATCH', 'weight.scaleInv'],
      [() => ({ x: { data: t([6, 200], 'e4m3'), scaleInv: t([1, 2]), granularity: 'block128x128' } }), 'INVALID_ARGUMENT', 'x.granularity'],
      [() => ({ x: { data: t([6, 200], 'e4m3'), scaleInv: t([5]), granularity: 'row' } }), 'SHAPE_MISMATCH', 'x.scaleInv'],
      [() => ({ x: t([6, 200], 'e4m3') }), 'DTYPE_MISMATCH', 'x'],
      [() => ({ bias: t([139]) }), 'SHAPE_MISMATCH', 'bias'],
      [() => ({ residual: t([5, 140]) }), 'SHAPE_MISMATCH', 'residual'],
      [() => ({ out: t([6, 141]) }), 'SHAPE_MISMATCH', 'out'],
      [() => ({ dtype: 'f16' }), 'DTYPE_MISMATCH', 'dtype'],
    ],
  },
  activation: {
    good: () => ({ x: t([2, 3]), kind: 'geluErf' }),
    makes: [[[2, 3], 'f32']],
    refuses: [[() => ({ kind: 'toString' }), 'INVALID_ARGUMENT', 'kind']],
  },
  gatedActivation: {
    good: () => ({ x: t([2, 6], 'bf16'), kind: 'swiglu' }),
    makes: [[[2, 3], 'bf16']],
    refuses: [
      [() => ({ x: t([2, 5]) }), 'INVALID_ARGUMENT', 'x'],
      [() => ({ out: t([2, 6]) }), 'SHAPE_MISMATCH', 'out'],
      [() => ({ kind: 'silu' }), 'INVALID_ARGUMENT', 'kind'],
    ],
  },
  rope: {
    good: () => ({ ...rotation(), x: t([3, 8]), heads: 2, normWeight: t([4]) }),
    makes: [[[3, 8], 'f32']],
    refuses: [
      [() => ({ x: t([3, 9]) }), 'SHAPE_MISMATCH', 'x'],
      [() => ({ heads: 3 }), 'SHAPE_MISMATCH', 'x'],
      [() => ({ heads: 0 }), 'INVALID_ARGUMENT', 'heads'],
      [() => ({ headDim: 3 }), 'INVALID_ARGUMENT', 'headDim'],
      [() => ({ headDim: 258 }), 'INVALID_ARGUMENT', 'headDim'],
      [() => ({ positions: i32(0, 1) }), 'SHAPE_MISMATCH', 'positions'],
      [() => ({ cos: t([5, 4]) }), 'SHAPE_MISMATCH', 'cos'],
      [() => ({ sin: t([4, 2]) }), 'SHAPE_MISMATCH', 'sin'],
      [() => ({ cos: t([5, 2], 'bf16') }), 'DTYPE_MISMATCH', 'cos'],
      [() => ({ normWeight: t([8]) }), 'SHAPE_MISMATCH', 'normWeight'],
    ],
  },
  kvAppend: {
    good: () => ({ ...cache(), k: t([3, 8]), v: t([3, 8], 'bf16'), rowOf: i32(0, 0, 1), positions: i32(0, 1, 0), kvHeads: 2, headDim: 4, kScaleInv: t([2]) }),
    refuses: [
      [() => ({ k: t([3, 4]) }), 'SHAPE_MISMATCH', 'k'],
      [() => ({ v: t([2, 8]) }), 'SHAPE_MISMATCH', 'v'],
      [() => ({ kCache: t([4, 1, 8, 4]) }), 'SHAPE_MISMATCH', 'kCache'],
      [() => ({ kCache: t([4, 2, 8, 4], 'f16') }), 'DTYPE_MISMATCH', 'kCache'],
      [() => ({ vCache: t([3, 2, 8, 4]) }), 'SHAPE_MISMATCH', 'vCache'],
      [() => ({ vCache: t([4, 2, 8, 4], 'bf16') }), 'DTYPE_MISMATCH', 'vCache'],
      [() => ({ kCache: t([4, 2, 8, 6]).columns(0, 4) }), 'INVALID_ARGUMENT', 'kCache'],
      [() => ({ pageTable: i32(0, 1) }), 'SHAPE_MISMATCH', 'pageTable'],
      [() => ({ rowOf: i32(0) }), 'SHAPE_MISMATCH', 'rowOf'],
      [() => ({ kScaleInv: t([3]) }), 'SHAPE_MISMATCH', 'kScaleInv'],
    ],
  },
  ropeKvAppend: {
    good: () => ({ ...cache(), ...rotation(), qkv: t([3, 32], 'bf16'), rowOf: i32(0, 0, 1), cachePositions: i32(0, 1, 0), heads: 4, kvHeads: 2 }),
    makes: [[[3, 16], 'bf16']],
    refuses: [
      [() => ({ qkv: t([3, 31]) }), 'SHAPE_MISMATCH', 'qkv'],
      [() => ({ kvHeads: 1 }), 'SHAPE_MISMATCH', 'qkv'],
      [() => ({ cachePositions: i32(0, 1) }), 'SHAPE_MISMATCH', 'cachePositions'],
      [() => ({ qNorm: t([5]) }), 'SHAPE_MISMATCH', 'qNorm'],
      [() => ({ kNorm: t([4], 'f16') }), 'DTYPE_MISMATCH', 'kNorm'],
      [() => ({ qOut: t([3, 8]) }), 'SHAPE_MISMATCH', 'qOut'],
    ],
  },
  attention: {
    good: () => ({ ...cache(), q: t([3, 16]), cuSeqlensQ: i32(0, 2, 3), kvLens: i32(2, 1), heads: 4, kvHeads: 2, headDim: 4 }),
    makes: [[[3, 16], 'f32']],
    refuses: [
      [() => ({ heads: 3 }), 'INVALID_ARGUMENT', 'heads'],
      [() => ({ q: t([3, 12]) }), 'SHAPE_MISMATCH', 'q'],
      [() => ({ cuSeqlensQ: i32(0, 3) }), 'SHAPE_MISMATCH', 'cuSeqlensQ'],
      [() => ({ kvLens: i32(2) }), 'SHAPE_MISMATCH', 'kvLens'],
      [() => ({ window: -1 }), 'INVALID_ARGUMENT', 'window'],
      [() => ({ softcap: -1 }), 'INVALID_ARGUMENT', 'softcap'],
      [() => ({ scale: NaN }), 'INVALID_ARGUMENT', 'scale'],
      [() => ({ maxSeqlenKv: 1.5 }), 'INVALID_ARGUMENT', 'maxSeqlenKv'],
      [() => ({ out: t([3, 8]) }), 'SHAPE_MISMATCH', 'out'],
    ],
  },
  attentionDense: {
    good: () => ({ q: t([3, 8]), k: t([4, 4]), v: t([4, 4]), startsQ: i32(0, 2), lensQ: i32(2, 1), startsKv: i32(0, 2), lensKv: i32(2, 2), heads: 2, kvHeads: 1, headDim: 4, mask: t([1, 2, 2], 'u8') }),
    makes: [[[3, 8], 'f32']],
    refuses: [
      [() => ({ v: t([3, 4]) }), 'SHAPE_MISMATCH', 'v'],
      [() => ({ lensKv: i32(2) }), 'SHAPE_MISMATCH', 'lensKv'],
      [() => ({ mask: t([3, 2, 2], 'u8') }), 'SHAPE_MISMATCH', 'mask'],
      [() => ({ mask: t([2, 2, 2]) }), 'DTYPE_MISMATCH', 'mask'],
      [() => ({ causal: 'yes' }), 'INVALID_ARGUMENT', 'causal'],
      [() => ({ windowLeft: -2 }), 'INVALID_ARGUMENT', 'windowLeft'],
    ],
  },
  argmax: {
    good: () => ({ x: t([2, 3, 5], 'bf16') }),
    makes: [[[6], 'i32']],
    refuses: [
      [() => ({ x: t([2, 0]) }), 'INVALID_ARGUMENT', 'x'],
      [() => ({ out: t([6]) }), 'DTYPE_MISMATCH', 'out'],
      [() => ({ out: i32(1, 2) }), 'SHAPE_MISMATCH', 'out'],
    ],
  },
  logSoftmax: {
    good: () => ({ x: t([2, 5], 'bf16') }),
    makes: [[[2, 5], 'f32']],
    refuses: [[() => ({ out: t([2, 5], 'bf16') }), 'DTYPE_MISMATCH', 'out']],
  },
  sample: {
    good: () => ({ logits: t([2, 5]), sequenceIds: i32(0, 1), positions: i32(3, 4), seed: 2 ** 40 + 1 }),
    makes: [[[2], 'i32']],
    refuses: [
      [() => ({ seed: -1 }), 'INVALID_ARGUMENT', 'seed'],
      [() => ({ seed: 2 ** 53 }), 'INVALID_ARGUMENT', 'seed'],
      [() => ({ temperature: 0 }), 'INVALID_ARGUMENT', 'temperature'],
      [() => ({ topK: -1 }), 'INVALID_ARGUMENT', 'topK'],
      [() => ({ topP: 1.1 }), 'INVALID_ARGUMENT', 'topP'],
      [() => ({ minP: -0.1 }), 'INVALID_ARGUMENT', 'minP'],
      [() => ({ positions: i32(3) }), 'SHAPE_MISMATCH', 'positions'],
      [() => ({ logits: t([2, 0]) }), 'INVALID_ARGUMENT', 'logits'],
    ],
  },
  updateScale: {
    good: () => ({ amaxHistory: t([2, 3]), scale: t([2]), fp8Max: 448 }),
    refuses: [
      [() => ({ amaxHistory: t([2, 0]) }), 'INVALID_ARGUMENT', 'amaxHistory'],
      [() => ({ amaxHistory: t([2, 3], 'bf16') }), 'DTYPE_MISMATCH', 'amaxHistory'],
      [() => ({ scale: t([3]) }), 'SHAPE_MISMATCH', 'scale'],
      [() => ({ scale: t([2], 'i32') }), 'DTYPE_MISMATCH', 'scale'],
      [() => ({ fp8Max: 0 }), 'INVALID_ARGUMENT', 'fp8Max'],
      [() => ({ margin: NaN }), 'INVALID_ARGUMENT', 'margin'],
      [() => ({ algorithm: 'mean' }), 'INVALID_ARGUMENT', 'algorithm'],
    ],
  },
  advanceDecode: {
    good: () => {
      const row = (): Tensor => i32(0, 0)
      return { chosen: row(), groups: row(), eos: t([2, 3], 'i32'), remaining: row(), tokens: row(), kvLens: row(), starts: row(), positions: row(), out: row() }
    },
    makes: [[[2], 'i32']],
    refuses: [
      [() => ({ groups: i32(1) }), 'SHAPE_MISMATCH', 'groups'],
      [() => ({ eos: i32(1, 2) }), 'SHAPE_MISMATCH', 'eos'],
      [() => ({ out: t([2]) }), 'DTYPE_MISMATCH', 'out'],
      [() => ({ group: -1 }), 'INVALID_ARGUMENT', 'group'],
      [() => ({ pad: 2 ** 31 }), 'INVALID_ARGUMENT', 'pad'],
    ],
  },
  amax: {
    good: () => ({ x: t([2, 5]), granularity: 'row' }),
    makes: [[[2], 'f32']],
    refuses: [
      [() => ({ granularity: 'block1x128' }), 'INVALID_ARGUMENT', 'granularity'],
      [() => ({ granularity: 'tensor', out: t([2]) }), 'SHAPE_MISMATCH', 'out'],
    ],
  },
  quantize: {
    good: () => ({ x: t([3, 200], 'bf16'), granularity: 'block1x128', dtype: 'e5m2' }),
    makes: [
      [[3, 200], 'e5m2'],
      [[3, 2], 'f32'],
    ],
    refuses: [
      [() => ({ granularity: 'all' }), 'INVALID_ARGUMENT', 'granularity'],
      [() => ({ dtype: 'bf16' }), 'DTYPE_MISMATCH', 'dtype'],
      [() => ({ scale: t([3]) }), 'SHAPE_MISMATCH', 'scale'],
      [() => ({ scaleInv: t([2, 3]) }), 'SHAPE_MISMATCH', 'scaleInv'],
      [() => ({ data: t([3, 200]) }), 'DTYPE_MISMATCH', 'dtype'],
      [() => ({ data: t([3, 100], 'e4m3') }), 'SHAPE_MISMATCH', 'data'],
      [() => ({ epsilon: -1 }), 'INVALID_ARGUMENT', 'epsilon'],
    ],
  },
  dequantize: {
    good: () => ({ x: { data: t([3, 200], 'e4m3'), scaleInv: t([3, 1]), granularity: 'row' }, dtype: 'bf16' }),
    makes: [[[3, 200], 'bf16']],
    refuses: [
      [() => ({ x: { data: t([3, 200], 'f32'), scaleInv: t([1]), granularity: 'tensor' } }), 'DTYPE_MISMATCH', 'x.data'],
      [() => ({ x: { data: t([3, 200], 'e4m3'), scaleInv: t([2]), granularity: 'tensor' } }), 'SHAPE_MISMATCH', 'x.scaleInv'],
      [() => ({ out: t([3, 100]) }), 'SHAPE_MISMATCH', 'out'],
    ],
  },
  gram: {
    good: () => ({ x: t([2, 3, 200], 'bf16'), out: t([200, 128]) }),
    makes: [[[200, 128], 'f32']],
    refuses: [
      [() => ({ x: t([3, 200], 'e4m3') }), 'DTYPE_MISMATCH', 'x'],
      [() => ({ x: t([3, 199]) }), 'SHAPE_MISMATCH', 'out'],
      [() => ({ out: t([200, 128], 'bf16') }), 'DTYPE_MISMATCH', 'out'],
      [() => ({ out: t([200, 0]) }), 'INVALID_ARGUMENT', 'out'],
    ],
  },
  compensate: {
    good: () => ({ x: t([3, 200], 'bf16'), moments: t([200, 128]), quantized: { data: t([3, 200], 'e4m3'), scaleInv: t([3, 1]), granularity: 'row' } }),
    makes: [
      [[3, 200], 'e4m3'],
      [[3, 1], 'f32'],
    ],
    refuses: [
      [() => ({ x: t([3, 200], 'e4m3') }), 'DTYPE_MISMATCH', 'x'],
      [() => ({ moments: t([199, 128]) }), 'SHAPE_MISMATCH', 'moments'],
      [() => ({ moments: t([200, 0]) }), 'INVALID_ARGUMENT', 'moments'],
      [() => ({ quantized: { data: t([3, 200], 'e5m2'), scaleInv: t([3, 1]), granularity: 'row' } }), 'DTYPE_MISMATCH', 'quantized.data'],
      [() => ({ quantized: { data: t([3, 100], 'e4m3'), scaleInv: t([3, 1]), granularity: 'row' } }), 'SHAPE_MISMATCH', 'quantized.data'],
      [() => ({ quantized: { data: t([3, 200], 'e4m3'), scaleInv: t([3]), granularity: 'tensor' } }), 'SHAPE_MISMATCH', 'quantized.scaleInv'],
      [() => ({ quantized: { data: t([3, 200], 'e4m3'), scaleInv: t([3]), granularity: 'all' } }), 'INVALID_ARGUMENT', 'quantized.granularity'],
      [() => ({ passes: -1 }), 'INVALID_ARGUMENT', 'passes'],
    ],
  },
  randomWeights: {
    good: () => ({ out: t([3, 4], 'bf16'), seed: 1 }),
    makes: [[[3, 4], 'bf16']],
    refuses: [
      [() => ({ out: t([3, 4], 'i32') }), 'DTYPE_MISMATCH', 'out'],
      [() => ({ seed: 0.5 }), 'INVALID_ARGUMENT', 'seed'],
      [() => ({ std: -1 }), 'INVALID_ARGUMENT', 'std'],
      [() => ({ stream: 2 ** 32 }), 'INVALID_ARGUMENT', 'stream'],
    ],
  },
  readFile: {
    good: () => ({ out: t([0], 'u8'), fd: 0, offset: 0 }),
    makes: [[[0], 'u8']],
    refuses: [
      [() => ({ fd: -1 }), 'INVALID_ARGUMENT', 'fd'],
      [() => ({ offset: 0.5 }), 'INVALID_ARGUMENT', 'offset'],
      [() => ({ out: t([4, 4]).columns(0, 2) }), 'INVALID_ARGUMENT', 'out'],
    ],
  },
}

const ops = wrappers as unknown as Readonly<Record<OpName, (options: unknown) => unknown>>
const run = (op: OpName, options: Options): unknown => ops[op](options)

function refusal(fn: () => unknown): OctetError {
  try {
    fn()
  } catch (error) {
    if (OctetError.is(error)) return error
    throw error
  }
  throw new Error('expected an OctetError')
}

it('every op has a row here', () => {
  expect(OP_NAMES.filter((op) => TABLE[op] === undefined)).toEqual([])
})

describe.each(OP_NAMES.filter((op) => TABLE[op] !== undefined))('%s', (op) => {
  const row = TABLE[op]!

  it('takes what fits and makes what it says', async () => {
    const result = run(op, row.good())
    const tensors = result === undefined ? [] : result instanceof Tensor ? [result] : [(result as wrappers.QuantizedTensor).data, (result as wrappers.QuantizedTensor).scaleInv]
    expect(tensors.map((x) => [x.shape, x.dtype])).toEqual(row.makes ?? [])
    await device.synchronize()
  })

  it.each(row.refuses.map(([change, code, argument], i) => [i, code, argument, change] as const))('refuses case %i with %s of %s', (_, code, argument, change) => {
    const options = { ...row.good(), ...change() }
    const before = device.memoryStats().allocations
    const enqueued = device.queue.enqueued
    const error = refusal(() => run(op, options))
    expect([error.code, error.op, error.argument]).toEqual([code, op, argument])
    expect(error.message).toContain(`[${op}] ${argument}: expected `)
    expect(device.queue.enqueued).toBe(enqueued)
    expect(device.memoryStats().allocations).toBe(before)
  })

  it('refuses disposed tensors, foreign tensors and what is no tensor', () => {
    const tensors = Object.entries(row.good()).filter(([, value]) => value instanceof Tensor)
    for (const [name] of tensors) {
      const gone = { ...row.good() }
      ;(gone[name] as Tensor).dispose()
      const view = gone[name] as Tensor
      if (view.disposed) expect([name, refusal(() => run(op, gone)).code]).toEqual([name, 'DISPOSED'])
      expect([name, refusal(() => run(op, { ...row.good(), [name]: 'text' })).code]).toEqual([name, 'INVALID_ARGUMENT'])
      if (tensors.length < 2) continue
      const good = row.good()
      const own = good[name] as Tensor
      const other = Tensor.zeros(own.shape, { dtype: own.dtype, device: foreign })
      const before = device.memoryStats().allocations
      expect([name, refusal(() => run(op, { ...good, [name]: other })).code]).toEqual([name, 'INVALID_ARGUMENT'])
      expect([name, device.memoryStats().allocations]).toEqual([name, before])
      other.dispose()
    }
  })
})

describe('messages', () => {
  it('read as the style says', () => {
    const error = refusal(() => wrappers.rmsNorm({ x: t([2, 4096]), weight: t([4095]) }))
    expect(error.message).toBe('[rmsNorm] weight: expected [4096], received [4095]')
    const lead = refusal(() => wrappers.add({ a: t([2, 3, 4]), b: t([5, 4]) }))
    expect(lead.message).toBe('[add] b: expected [...(6 in all), 4], received [5, 4]')
  })
})

afterAll(() => {
  for (const tensor of made) if (!tensor.disposed) tensor.dispose()
})
