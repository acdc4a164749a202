import { formatShape, numel, type QuantizedSource, type ScaleGranularity, type Shape, type TensorSource } from '@octet-llm/core'
import { showShape } from '../io/names.js'

const BLOCK = 128

/** compressed-tensors and fbgemm, then fine-grained: all of them mean w = fp8 * scale. */
const WEIGHT_SCALES = ['weight_scale', 'weight_scale_inv']
const INPUT_SCALES = ['input_scale', 'activation_scale']

/** The tensors that de-quantize one FP8 weight, or what is wrong with them. */
export type Scales =
  | { readonly found: QuantizedSource; readonly claimed: readonly string[] }
  | { readonly missing: string }
  | { readonly wrong: string; readonly claimed: readonly string[] }

/**
 * Finds the scales beside an FP8 weight `<module>.weight` of shape [out, in]; their shape tells the granularity.
 * @param byName the checkpoint's tensors by slot name
 */
export function findScales(name: string, data: TensorSource, byName: ReadonlyMap<string, TensorSource>): Scales {
  const module = name.replace(/\.weight$/, '')
  const find = (suffixes: readonly string[]): [string, TensorSource] | undefined => {
    for (const suffix of suffixes) {
      const source = byName.get(`${module}.${suffix}`)
      if (source !== undefined) return [`${module}.${suffix}`, source]
    }
    return undefined
  }
  const scale = find(WEIGHT_SCALES)
  if (scale === undefined) return { missing: name }
  const input = find(INPUT_SCALES)
  const claimed = [scale[0], ...(input === undefined ? [] : [input[0]])]
  const granularity = granularityOf(data.shape, scale[1].shape)
  for (const [scaleName, source] of input === undefined ? [scale] : [scale, input]) {
    const isFloat = source.dtype === 'f32' || source.dtype === 'bf16' || source.dtype === 'f16'
    if (!isFloat || source.strides !== undefined) return { wrong: `${scaleName} expected f32, bf16 or f16, received ${source.dtype}`, claimed }
  }
  if (granularity === undefined) {
    return { wrong: `${scale[0]} expected a scale of ${formatShape(data.shape)} by tensor, row or 128-block, received ${showShape(scale[1].shape)}`, claimed }
  }
  if (input !== undefined && numel(input[1].shape) !== 1) return { wrong: `${input[0]} expected one value, received ${showShape(input[1].shape)}`, claimed }
  const found: QuantizedSource = {
    data,
    scaleInv: { ...scale[1], shape: scaleShape(granularity, data.shape) },
    granularity,
    ...(input === undefined ? {} : { inputScale: { ...input[1], shape: [1] } }),
  }
  return { found, claimed }
}

/** One scale; [out] or [out, 1]; [ceil(out/128), ceil(in/128)]; [out, ceil(in/128)]. Ragged edges have a block of their own. */
function granularityOf(weight: Shape, scale: Shape): ScaleGranularity | undefined {
  const [out, width] = weight
  if (weight.length !== 2 || out === undefined || width === undefined) return undefined
  if (numel(scale) === 1) return 'tensor'
  if (scale.length === 1) return scale[0] === out ? 'row' : undefined
  if (scale.length !== 2) return undefined
  if (scale[0] === out && scale[1] === 1) return 'row'
  if (scale[1] !== Math.ceil(width / BLOCK)) return undefined
  if (scale[0] === Math.ceil(out / BLOCK)) return 'block128x128'
  return scale[0] === out ? 'block1x128' : undefined
}

function scaleShape(granularity: ScaleGranularity, [out = 0, width = 0]: Shape): Shape {
  switch (granularity) {
    case 'tensor':
      return [1]
    case 'row':
      return [out]
    case 'block1x128':
      return [out, Math.ceil(width / BLOCK)]
    case 'block128x128':
      return [Math.ceil(out / BLOCK), Math.ceil(width / BLOCK)]
  }
}
