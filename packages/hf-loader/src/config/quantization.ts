import { OctetError } from '@octet-llm/core'
import type { JsonObject } from '../io/json-file.js'
import { quoteName } from '../io/names.js'
import type { Fields } from './fields.js'

interface Common {
  /** Modules kept in their own type, as the file names them (`lm_head`, `re:.*norm`). */
  readonly ignore: readonly string[]
  readonly raw: JsonObject
}

/** The FP8 forms of `quantization_config`. In all of them a weight is fp8 * scale, also where the tensor is called `_inv`. */
export type QuantizationConfig =
  /** compressed-tensors: `weight_scale` by tensor, channel or block; static `input_scale` where activations were calibrated. */
  | (Common & { readonly method: 'compressed-tensors'; readonly staticActivations: boolean })
  /** fbgemm: `weight_scale` by output row. */
  | (Common & { readonly method: 'fbgemm_fp8'; readonly activationScaleUb: number | null })
  /** Fine-grained: `weight_scale_inv` by block, by tensor when the block size is null. */
  | (Common & { readonly method: 'fp8'; readonly weightBlockSize: readonly [number, number] | null; readonly staticActivations: boolean })

/**
 * Validates a `quantization_config`.
 * @throws OctetError `NOT_SUPPORTED` for other methods and for anything but 8-bit floats, `INVALID_CONFIG`.
 */
export function readQuantization(fields: Fields): QuantizationConfig {
  const method = fields.string('quant_method') ?? fields.fail('quant_method', 'a string', 'nothing')
  switch (method) {
    case 'compressed-tensors':
      return readCompressedTensors(fields)
    case 'fbgemm_fp8':
      return {
        method,
        activationScaleUb: fields.number('activation_scale_ub', { min: 0, above: true }) ?? null,
        ignore: fields.strings('modules_to_not_convert') ?? [],
        raw: fields.object,
      }
    case 'fp8':
      return {
        method,
        weightBlockSize: readBlockSize(fields),
        staticActivations: fields.choice('activation_scheme', SCHEMES) ?? false,
        ignore: fields.strings('modules_to_not_convert') ?? [],
        raw: fields.object,
      }
    default:
      throw unsupported(fields, 'quant_method', 'compressed-tensors | fbgemm_fp8 | fp8', quoteName(method))
  }
}

/** Value: activations have a static scale. */
const SCHEMES: ReadonlyMap<string, boolean> = new Map([
  ['dynamic', false],
  ['static', true],
])

function readBlockSize(fields: Fields): readonly [number, number] | null {
  const size = fields.list('weight_block_size', 'whole numbers', (item): item is number => Number.isSafeInteger(item))
  if (size === undefined) return null
  if (size.length === 2 && size[0] === 128 && size[1] === 128) return [128, 128]
  throw unsupported(fields, 'weight_block_size', '[128, 128] or null', `[${size.slice(0, 4).join(', ')}]`)
}

function readCompressedTensors(fields: Fields): QuantizationConfig {
  const format = fields.string('format') ?? 'float-quantized'
  if (format !== 'float-quantized' && format !== 'naive-quantized') {
    throw unsupported(fields, 'format', 'float-quantized', quoteName(format))
  }
  const groups = fields.child('config_groups') ?? fields.fail('config_groups', 'an object', 'nothing')
  const names = Object.keys(groups.object)
  if (names.length === 0) fields.fail('config_groups', 'at least one group', 'none')
  let staticActivations = false
  for (const name of names) {
    const group = groups.child(name) ?? groups.fail(name, 'an object', 'nothing')
    readScheme(group.child('weights') ?? group.fail('weights', 'an object', 'nothing'), ['tensor', 'channel', 'block'])
    const inputs = group.child('input_activations')
    if (inputs === undefined) continue
    readScheme(inputs, ['tensor', 'token', 'group'])
    // Only a static scheme stores scales; `dynamic` may also be the string "local".
    if (inputs.value('dynamic') === false || inputs.value('dynamic') === undefined) staticActivations = true
  }
  return { method: 'compressed-tensors', staticActivations, ignore: fields.strings('ignore') ?? [], raw: fields.object }
}

function readScheme(scheme: Fields, strategies: readonly string[]): void {
  const bits = scheme.integer('num_bits', { min: 1, max: 64 }) ?? 8
  const type = scheme.string('type') ?? 'int'
  if (bits !== 8 || type !== 'float') throw unsupported(scheme, 'type', '8-bit float', `${bits}-bit ${type.slice(0, 20)}`)
  if (scheme.boolean('symmetric') === false) throw unsupported(scheme, 'symmetric', 'true', 'false')
  const strategy = scheme.string('strategy')
  if (strategy !== undefined && !strategies.includes(strategy)) throw unsupported(scheme, 'strategy', strategies.join(' | '), quoteName(strategy))
}

function unsupported(fields: Fields, key: string, expected: string, received: string): OctetError {
  return new OctetError('NOT_SUPPORTED', {
    op: fields.op,
    argument: `${fields.file}: quantization_config ${key}`,
    expected,
    received,
    hint: 'use an unquantized or an FP8 form of the model',
  })
}
