import type { Device } from '@octet-llm/kernels'
import { assign, checkLoraAdapter, openCheckpoint, openLoraAdapter, planAssignment, readConfig, readGenerationConfig, saveCheckpoint, sharesEmbedding, type AssignProgress, type Checkpoint, type ModelConfig, type SaveOptions } from '@octet-llm/hf-loader'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import { resolveFp8, savedFp8, type Calibration, type Fp8Option } from '@octet-llm/transformer'

import type { TELlamaOptions, TELlamaForCausalLM } from './model.js'

export interface FromPretrainedOptions {
  readonly device: Device
  /** Of activations. `auto` (default): the config's, else the first weight's; float16 checkpoints run in float32. */
  readonly dtype?: 'auto' | 'f32' | 'bf16'
  /** Default 'te'. */
  readonly decoderLayer?: 'te' | 'reference'
  /** How `exportState` of a layer names QKV. Default false. */
  readonly fuseQkvParams?: boolean
  /**
   * Projections exist in FP8 only: `true` quantizes weights by row and activations by token; a recipe, its name, or
   * `{ recipe, fp8LmHead }` otherwise. What an FP8 checkpoint holds in FP8 is taken as it is. Default: de-quantized.
   */
  readonly fp8?: Fp8Option
  /** Static scales of activations and of an FP8 KV cache, or the safetensors file that holds them. Default: the checkpoint's. */
  readonly calibration?: Calibration | string
  /** Folder of a LoRA adapter (peft), merged into the weights in float32. */
  readonly adapter?: string
  /** Stops between reads; the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /** Called after each tensor. */
  readonly onProgress?: (progress: AssignProgress) => void
}

export type ExportOptions = Pick<SaveOptions, 'signal' | 'maxShardSize' | 'onProgress'>

/** See `exportQuantized` of the model. */
export async function exportQuantized(model: TELlamaForCausalLM, dir: string, options: ExportOptions): Promise<string[]> {
  const { tensors, config } = model.quantizedCheckpoint()
  return saveCheckpoint(dir, tensors, { ...options, config: { ...model.config.raw, tie_word_embeddings: model.tieWordEmbeddings, ...config } })
}

/** Weights take memory when they are first filled, so a config that does not fit its files is refused before. */
export async function loadPretrained(
  dir: string,
  options: FromPretrainedOptions,
  make: (config: ModelConfig, options: TELlamaOptions) => TELlamaForCausalLM,
): Promise<TELlamaForCausalLM> {
  const { device, decoderLayer, fuseQkvParams, signal, onProgress } = options
  const config = await readConfig(dir, { signal })
  const generationConfig = await readGenerationConfig(dir, { signal })
  const checkpoint = await openCheckpoint(dir, { signal })
  let model: TELlamaForCausalLM | undefined
  try {
    const tied = await sharesEmbedding(checkpoint, config, { signal })
    const adapter = options.adapter === undefined ? undefined : await openLoraAdapter(options.adapter, { signal })
    const calibration = await readCalibration(options.calibration, checkpoint)
    const quantization = config.quantizationConfig
    const isStatic = quantization !== null && 'staticActivations' in quantization && quantization.staticActivations
    const fp8 = resolveFp8(savedFp8(options.fp8, config.raw), isStatic || options.calibration !== undefined)
    const dtypes = chooseDtypes(options, config, checkpoint)
    model = make(config, { device, ...dtypes, decoderLayer, fuseQkvParams, fp8, tieWordEmbeddings: tied, generationConfig, initialize: false })
    const slots = model.slots()
    if (adapter !== undefined) checkLoraAdapter(adapter, slots)
    const stored = planAssignment(checkpoint, slots, { tied }).tensors.filter(({ source }) => 'data' in source)
    if (stored.length > 0) model.layOutFp8(new Set(stored.map(({ slot }) => slot.name)))
    await assign(checkpoint, slots, model.sink({ signal, adapter }), { tied, signal, onProgress })
    model.finishLoading(calibration)
    return model
  } catch (error) {
    await model?.dispose()
    throw error
  } finally {
    await checkpoint.close()
  }
}

/**
 * The activations' dtype and the weights'. Float32 activations keep bf16 or f16 weights as they are, since kernels widen
 * them exactly; a file of several dtypes, or of FP8 to de-quantize, is
 * stored as float32, and so is a sum with an adapter.
 */
function chooseDtypes({ dtype: asked = 'auto', fp8, adapter }: FromPretrainedOptions, config: ModelConfig, checkpoint: Checkpoint): Pick<TELlamaOptions, 'dtype' | 'weightDtype'> {
  const inFp8 = fp8 !== undefined && fp8 !== false
  const matrices = [...checkpoint.sources.values()].filter(({ name, dtype, shape }) => shape.length > 1 && !(inFp8 && (dtype === 'e4m3' || SCALE.test(name))))
  const stored = new Set(matrices.map((source) => source.dtype))
  const own = config.dtype ?? [...stored][0]
  const dtype = asked === 'auto' ? (own === 'bf16' ? 'bf16' : 'f32') : asked
  const only = stored.size === 1 ? [...stored][0] : undefined
  return { dtype, weightDtype: dtype === 'f32' && adapter === undefined && (only === 'bf16' || only === 'f16') ? only : dtype }
}

const SCALE = /_scale(?:_inv)?$/

/** A calibration of one's own, or the scales of keys and values that the checkpoint holds. */
async function readCalibration(given: Calibration | string | undefined, checkpoint: Checkpoint): Promise<Calibration | undefined> {
  if (typeof given === 'object') return given
  const scales = new Map<string, Float32Array>()
  if (given !== undefined) {
    const file = await openSafetensors(given)
    for (const name of file.tensors.keys()) scales.set(name, await file.readFloat32(name))
    await file.close()
    return scales
  }
  for (const name of checkpoint.sources.keys()) {
    const [, layer, part] = /layers\.(\d+)\.self_attn\.([kv])_scale$/.exec(name) ?? []
    if (layer !== undefined) scales.set(`layers.${layer}.self_attention.${part}_scale`, await checkpoint.readFloat32(name))
  }
  return scales.size === 0 ? undefined : scales
}

