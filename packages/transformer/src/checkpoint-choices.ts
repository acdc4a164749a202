import type { DType, TensorSource } from '@octet-llm/core'
import type { Device } from '@octet-llm/kernels'

import type { AdapterMode } from './weight-sink.js'
import { kvName, type Calibration } from './fp8/calibration.js'
import type { InputMoments } from './fp8/input-moments.js'
import { resolveFp8, type Fp8Inference, type Fp8Option } from './fp8/inference.js'

export interface DtypeRequest {
  /** Of activations. Default 'auto'. */
  readonly dtype?: 'auto' | 'f32' | 'bf16' | undefined
  readonly fp8?: Fp8Option | undefined
  /** Weights are sums with a merged adapter's. */
  readonly adapter?: unknown
  readonly adapterMode?: AdapterMode | undefined
}

/** What every model loads by. */
export interface PretrainedOptions {
  readonly device: Device
  /** Of activations. `auto` (default): the config's, else the first weight's; float16 checkpoints run in float32. */
  readonly dtype?: 'auto' | 'f32' | 'bf16'
  /** Default 'te'. */
  readonly decoderLayer?: 'te' | 'reference'
  /** How `exportState` of a layer names QKV. Default false. */
  readonly fuseQkvParams?: boolean
  /** Projections exist in FP8 only, as resolveFp8 says; what a checkpoint holds in FP8 is taken as it is. Default: de-quantized. */
  readonly fp8?: Fp8Option
  /** Static scales of activations and of an FP8 KV cache, or the safetensors file that holds them. Default: the checkpoint's. */
  readonly calibration?: Calibration | string
  /**
   * Of a calibration of this checkpoint: weights that are quantized as they come in are rounded so that their errors cancel in
   * products with such inputs. Default: rounded to nearest.
   */
  readonly moments?: InputMoments | undefined
  /** Folder of a LoRA adapter (peft). */
  readonly adapter?: string
  /**
   * `merge` (default): into the weights, in float32; FP8 weights are de-quantized for it and quantized again. `apply`: the
   * factors stay beside the weights, which keep the checkpoint's bytes. Either way `modules_to_save` take the place of the
   * checkpoint's tensors, in float32 where the activations are.
   */
  readonly adapterMode?: AdapterMode
  /** Stops between reads; the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

const SCALE = /_scale(?:_inv)?$/

/**
 * The activations' dtype and the weights' for a checkpoint. Float32 activations keep bf16 or f16 weights as they are, since
 * kernels widen them exactly; a file of several dtypes, or of FP8 to de-quantize, is stored as float32, and so is a sum
 * with an adapter.
 * @param stated dtype of config.json
 */
export function chooseDtypes(request: DtypeRequest, stated: DType | null, sources: ReadonlyMap<string, TensorSource>): { dtype: 'f32' | 'bf16'; weightDtype: 'f32' | 'bf16' | 'f16' } {
  const { dtype: asked = 'auto', fp8 = false } = request
  const adapter = request.adapterMode === 'apply' ? undefined : request.adapter
  const matrices = [...sources.values()].filter(({ name, dtype, shape }) => shape.length > 1 && !(fp8 !== false && (dtype === 'e4m3' || SCALE.test(name))))
  const stored = new Set(matrices.map((source) => source.dtype))
  const own = stated ?? [...stored][0]
  const dtype = asked === 'auto' ? (own === 'bf16' ? 'bf16' : 'f32') : asked
  const only = stored.size === 1 ? [...stored][0] : undefined
  return { dtype, weightDtype: dtype === 'f32' && adapter === undefined && (only === 'bf16' || only === 'f16') ? only : dtype }
}

/** What a model with random weights takes besides its config. */
export interface FromConfigOptions {
  readonly device: Device
  /** Of activations and weights. `auto` (default): the config's; float16 runs in float32, a config without one in bf16. */
  readonly dtype?: 'auto' | 'f32' | 'bf16'
  /** As fromPretrained's. Default: none. */
  readonly fp8?: Fp8Option
  /** Default 'te'. */
  readonly decoderLayer?: 'te' | 'reference'
  /** How `exportState` of a layer names QKV. Default false. */
  readonly fuseQkvParams?: boolean
  /** Of the weights; a whole number below 2^53. Default 0. */
  readonly seed?: number
}

/** What `auto` is for random weights. @param stated dtype of config.json */
export function randomDtype(stated: DType | null): 'f32' | 'bf16' {
  return stated === null || stated === 'bf16' ? 'bf16' : 'f32'
}

/** The same with every choice made. @param stated dtype of config.json @throws OctetError as resolveFp8 */
export function chooseFromConfig({ dtype = 'auto', fp8, ...rest }: FromConfigOptions, stated: DType | null): Omit<FromConfigOptions, 'dtype' | 'fp8'> & { readonly dtype: 'f32' | 'bf16'; readonly fp8: Fp8Inference | undefined } {
  return { ...rest, dtype: dtype === 'auto' ? randomDtype(stated) : dtype, fp8: resolveFp8(fp8, false) }
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
  // Other writers leave 0 or -1 where they set none.
  const isSet = (scale: number): boolean => scale > 0 && Number.isFinite(scale) && Number.isFinite(Math.fround(1 / scale))
  if (![...scales.values()].some((values) => values.some(isSet))) return undefined
  return new Map([...scales].map(([name, values]) => [name, values.map((scale) => (isSet(scale) ? scale : 1))]))
}
