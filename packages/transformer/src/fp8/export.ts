import { OctetError, type DType, type Shape } from '@octet-llm/core'
import { recipeToJSON } from '@octet-llm/fp8-recipe'
import type { Tensor } from '@octet-llm/kernels'

import { findWeight } from '../module.js'
import type { Weight } from '../weight.js'
import { kvName, type Calibration } from './calibration.js'
import type { NamedLinear } from './decoder-fp8.js'
import type { Fp8Inference } from './inference.js'

/** A tensor of a checkpoint, its bytes read from the device when a writer comes to it. */
export interface CheckpointTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: Shape
  data(): AsyncIterable<Uint8Array>
}

/** An FP8 model as compressed-tensors checkpoints hold one. */
export interface QuantizedCheckpoint {
  readonly tensors: readonly CheckpointTensor[]
  /** What config.json gains: `quantization_config`, and `octet_fp8` so that a reload computes alike. */
  readonly config: Readonly<Record<string, unknown>>
}

/** The parts of a decoder that an export reads. */
export interface ExportedModel {
  readonly fp8: Fp8Inference | undefined
  readonly weights: ReadonlyMap<string, Weight>
  readonly weightMap: readonly { readonly name: string; readonly address: string }[]
  readonly linears: readonly NamedLinear[]
  readonly calibration: Calibration | undefined
  readonly numLayers: number
}

const STRATEGIES = { tensor: { strategy: 'tensor' }, row: { strategy: 'channel' }, block1x128: { strategy: 'block', block_structure: [1, 128] }, block128x128: { strategy: 'block', block_structure: [128, 128] } } as const

/** @throws OctetError `INVALID_ARGUMENT` for a model without FP8 weights */
export function quantizedCheckpoint(model: ExportedModel): QuantizedCheckpoint {
  const { fp8, linears } = model
  if (fp8 === undefined || !linears.some(({ linear }) => linear.weight.rule !== undefined)) {
    throw new OctetError('INVALID_ARGUMENT', { op: 'exportQuantized', argument: 'model', expected: 'a model in FP8', received: 'one without FP8 weights', hint: 'load it with { fp8: true } or a recipe' })
  }
  if (linears.some(({ linear }) => linear.lowRankBytes > 0)) {
    throw new OctetError('INVALID_ARGUMENT', { op: 'exportQuantized', argument: 'model', expected: 'weights that are all of the model', received: 'an adapter applied beside them', hint: 'merge the adapter' })
  }
  const scales = model.calibration
  const kv = scales !== undefined && scales.has(kvName(0, 'k'))
  return {
    tensors: [...model.weightMap.flatMap(({ name, address }) => tensorsOf(model, name, address)), ...(kv ? kvTensors(model, scales) : [])],
    config: {
      quantization_config: quantizationConfig(model, kv),
      octet_fp8: { recipe: fp8.recipe === undefined ? null : recipeToJSON(fp8.recipe), fp8LmHead: fp8.lmHead },
    },
  }
}

function tensorsOf(model: ExportedModel, name: string, address: string): CheckpointTensor[] {
  const { weight, segment } = findWeight(model.weights, address)
  if (weight.rule === undefined) return [fromDevice(name, weight.view(segment))]
  const { data, scaleInv, granularity } = weight.quantized(segment)
  const module = name.replace(/\.weight$/, '')
  const inputScale = model.linears.find(({ linear }) => linear.weight === weight)?.linear.inputScale
  return [
    fromDevice(name, data),
    fromDevice(`${module}.weight_scale`, scaleInv, granularity === 'row' ? [scaleInv.shape[0]!, 1] : undefined),
    ...(inputScale === undefined ? [] : [fromHost(`${module}.input_scale`, Float32Array.of(inputScale), [1])]),
  ]
}

/** Beside the key and value projections, one scale a head. */
function kvTensors(model: ExportedModel, scales: Calibration): CheckpointTensor[] {
  const names = new Map(model.weightMap.map(({ name, address }) => [address, name]))
  return Array.from({ length: model.numLayers }, (_, i) =>
    (['k', 'v'] as const).map((part) => {
      const projection = names.get(`layers.${i}.self_attention.layernorm_qkv.weight.${part === 'k' ? 'key' : 'value'}`)!
      const values = scales.get(kvName(i, part))!
      return fromHost(projection.replace(/[kv]_proj\.weight$/, `${part}_scale`), values, [values.length, 1, 1])
    }),
  ).flat()
}

/** Projections of one kind share a group; a single group targets every linear that is not ignored. */
function quantizationConfig({ linears, weightMap }: ExportedModel, kv: boolean): object {
  const saved = new Set(weightMap.map(({ name }) => name))
  const groups = new Map<string, { readonly scheme: object; readonly targets: string[] }>()
  const ignore: string[] = []
  for (const { linear, slots } of linears) {
    for (const [i, slot] of slots.entries()) {
      const module = slot.replace(/\.weight$/, '')
      // An FP8 copy of a tied head is made at every load: for other readers the head is the embedding.
      if (linear.weight.rule === undefined || !saved.has(slot)) {
        ignore.push(module)
        continue
      }
      const { granularity } = linear.weight.quantized(linear.weight.segments[i]?.name)
      const key = `${granularity} ${linear.inputScale !== undefined} ${linear.inputRule?.granularity}`
      const group = groups.get(key) ?? { scheme: { weights: { ...FLOAT8, ...STRATEGIES[granularity], dynamic: false }, input_activations: inputScheme(linear) }, targets: [] }
      group.targets.push(module)
      groups.set(key, group)
    }
  }
  if (!linears.some(({ name }) => name === 'lm_head')) ignore.push('lm_head')
  const single = groups.size === 1
  return {
    quant_method: 'compressed-tensors',
    format: 'float-quantized',
    quantization_status: 'compressed',
    config_groups: Object.fromEntries([...groups.values()].map(({ scheme, targets }, i) => [`group_${i}`, { targets: single ? ['Linear'] : targets, ...scheme }])),
    ignore,
    kv_cache_scheme: kv ? { ...FLOAT8, strategy: 'attn_head', dynamic: false } : null,
  }
}

const FLOAT8 = { num_bits: 8, type: 'float', symmetric: true } as const

function inputScheme(linear: NamedLinear['linear']): object {
  if (linear.inputScale !== undefined) return { ...FLOAT8, strategy: 'tensor', dynamic: false }
  if (linear.inputRule?.granularity === 'block1x128') return { ...FLOAT8, strategy: 'group', group_size: 128, dynamic: true }
  return { ...FLOAT8, strategy: 'token', dynamic: true }
}

/** What is read from the device at once. */
const PIECE_BYTES = 8 * 2 ** 20

/** A tensor of the device, read in pieces when a writer comes to it. */
export function fromDevice(name: string, tensor: Tensor, shape: Shape = tensor.shape): CheckpointTensor {
  return {
    name,
    dtype: tensor.dtype,
    shape: [...shape],
    async *data() {
      const rows = tensor.shape[0] ?? 1
      const step = Math.max(1, Math.floor((PIECE_BYTES * rows) / Math.max(1, tensor.byteLength)))
      if (step >= rows) return yield await tensor.toBytes()
      for (let begin = 0; begin < rows; begin += step) {
        const piece = tensor.rows(begin, Math.min(rows, begin + step))
        yield await piece.toBytes().finally(() => piece.dispose())
      }
    },
  }
}

function fromHost(name: string, values: Float32Array, shape: Shape): CheckpointTensor {
  return {
    name,
    dtype: 'f32',
    shape,
    async *data() {
      yield await Promise.resolve(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    },
  }
}
