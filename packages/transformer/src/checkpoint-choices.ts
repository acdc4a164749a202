import type { DType, TensorSource } from '@octet-llm/core'

import { kvName, type Calibration } from './fp8/calibration.js'
import type { Fp8Option } from './fp8/inference.js'

export interface DtypeRequest {
  /** Of activations. Default 'auto'. */
  readonly dtype?: 'auto' | 'f32' | 'bf16' | undefined
  readonly fp8?: Fp8Option | undefined
  /** Weights are sums with an adapter's. */
  readonly adapter?: unknown
}

const SCALE = /_scale(?:_inv)?$/

/**
 * The activations' dtype and the weights' for a checkpoint. Float32 activations keep bf16 or f16 weights as they are, since
 * kernels widen them exactly; a file of several dtypes, or of FP8 to de-quantize, is stored as float32, and so is a sum
 * with an adapter.
 * @param stated dtype of config.json
 */
export function chooseDtypes(request: DtypeRequest, stated: DType | null, sources: ReadonlyMap<string, TensorSource>): { dtype: 'f32' | 'bf16'; weightDtype: 'f32' | 'bf16' | 'f16' } {
  const { dtype: asked = 'auto', fp8 = false, adapter } = request
  const matrices = [...sources.values()].filter(({ name, dtype, shape }) => shape.length > 1 && !(fp8 !== false && (dtype === 'e4m3' || SCALE.test(name))))
  const stored = new Set(matrices.map((source) => source.dtype))
  const own = stated ?? [...stored][0]
  const dtype = asked === 'auto' ? (own === 'bf16' ? 'bf16' : 'f32') : asked
  const only = stored.size === 1 ? [...stored][0] : undefined
  return { dtype, weightDtype: dtype === 'f32' && adapter === undefined && (only === 'bf16' || only === 'f16') ? only : dtype }
}

/** Named tensors of a file or of a checkpoint. */
export interface ScaleReader {
  readFloat32(name: string): Promise<Float32Array>
}

/** All tensors of a calibration file. The caller closes it. */
export async function readCalibration(file: ScaleReader & { readonly tensors: ReadonlyMap<string, unknown> }): Promise<Calibration> {
  const scales = new Map<string, Float32Array>()
  for (const name of file.tensors.keys()) scales.set(name, await file.readFloat32(name))
  return scales
}

/** The scales of keys and values that a checkpoint holds; undefined when it holds none. */
export async function readKvScales(checkpoint: ScaleReader & { readonly sources: ReadonlyMap<string, unknown> }): Promise<Calibration | undefined> {
  const scales = new Map<string, Float32Array>()
  for (const name of checkpoint.sources.keys()) {
    const [, layer, part] = /layers\.(\d+)\.self_attn\.([kv])_scale$/.exec(name) ?? []
    if (layer !== undefined) scales.set(kvName(Number(layer), part as 'k' | 'v'), await checkpoint.readFloat32(name))
  }
  return scales.size === 0 ? undefined : scales
}
