import type { Device } from '@octet-llm/kernels'
import { assign, checkLoraAdapter, openCheckpoint, openLoraAdapter, planAssignment, readConfig, readGenerationConfig, sharesEmbedding, type AssignProgress, type Checkpoint, type ModelConfig } from '@octet-llm/hf-loader'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import { chooseDtypes, readCalibration, readKvScales, resolveFp8, savedFp8, type Calibration, type Fp8Option } from '@octet-llm/transformer'

import type { TEGemmaOptions, TEGemmaForCausalLM } from './model.js'

export interface FromPretrainedOptions {
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
  /** Folder of a LoRA adapter (peft), merged into the weights in float32. */
  readonly adapter?: string
  /** Stops between reads; the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /** Called after each tensor. */
  readonly onProgress?: (progress: AssignProgress) => void
}

/** Weights take memory when they are first filled, so a config that does not fit its files is refused before. */
export async function loadPretrained(
  dir: string,
  options: FromPretrainedOptions,
  make: (config: ModelConfig, options: TEGemmaOptions) => TEGemmaForCausalLM,
): Promise<TEGemmaForCausalLM> {
  const { device, decoderLayer, fuseQkvParams, signal, onProgress } = options
  const config = await readConfig(dir, { signal })
  const generationConfig = await readGenerationConfig(dir, { signal })
  const checkpoint = await openCheckpoint(dir, { signal })
  let model: TEGemmaForCausalLM | undefined
  try {
    const tied = await sharesEmbedding(checkpoint, config, { signal })
    const adapter = options.adapter === undefined ? undefined : await openLoraAdapter(options.adapter, { signal })
    const calibration = await calibrationOf(options.calibration, checkpoint)
    const quantization = config.quantizationConfig
    const isStatic = quantization !== null && 'staticActivations' in quantization && quantization.staticActivations
    const fp8 = resolveFp8(savedFp8(options.fp8, config.raw), isStatic || options.calibration !== undefined)
    const dtypes = chooseDtypes(options, config.dtype, checkpoint.sources)
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

async function calibrationOf(given: Calibration | string | undefined, checkpoint: Checkpoint): Promise<Calibration | undefined> {
  if (given === undefined) return readKvScales(checkpoint)
  if (typeof given !== 'string') return given
  const file = await openSafetensors(given)
  return readCalibration(file).finally(() => file.close())
}
