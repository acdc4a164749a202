import { assign, checkLoraAdapter, openCheckpoint, openLoraAdapter, planAssignment, planHead, readConfig, readGenerationConfig, type AssignProgress, type Checkpoint, type ModelConfig } from '@octet-llm/hf-loader'
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'
import { chooseDtypes, readCalibration, readKvScales, resolveFp8, savedFp8, type Calibration, type DecoderForCausalLM, type PretrainedOptions } from '@octet-llm/transformer'

import type { TELlamaOptions } from './config.js'

export interface FromPretrainedOptions extends PretrainedOptions {
  /** Called after each tensor. */
  readonly onProgress?: (progress: AssignProgress) => void
}

/** Weights take memory when they are first filled, so a config that does not fit its files is refused before. */
export async function loadPretrained<M extends DecoderForCausalLM>(
  dir: string,
  options: FromPretrainedOptions,
  make: (config: ModelConfig, options: TELlamaOptions) => M,
): Promise<M> {
  const { device, decoderLayer, fuseQkvParams, adapterMode, moments, signal, onProgress } = options
  const config = await readConfig(dir, { signal })
  const generationConfig = await readGenerationConfig(dir, { signal })
  const checkpoint = await openCheckpoint(dir, { signal })
  let model: M | undefined
  try {
    const opened = options.adapter === undefined ? undefined : await openLoraAdapter(options.adapter, { signal })
    const { plan, adapter } = await planHead(checkpoint, config, opened, { signal })
    const calibration = await calibrationOf(options.calibration, checkpoint)
    const quantization = config.quantizationConfig
    const isStatic = quantization !== null && 'staticActivations' in quantization && quantization.staticActivations
    const fp8 = resolveFp8(savedFp8(options.fp8, config.raw), isStatic || options.calibration !== undefined)
    const dtypes = chooseDtypes(options, config.dtype, checkpoint.sources)
    model = make(config, { device, ...dtypes, decoderLayer, fuseQkvParams, fp8, tieWordEmbeddings: plan.tied, generationConfig, initialize: false })
    const slots = model.slots()
    if (adapter !== undefined) checkLoraAdapter(adapter, slots)
    const stored = planAssignment(checkpoint, slots, plan).tensors.filter(({ source }) => 'data' in source)
    if (stored.length > 0) model.layOutFp8(new Set(stored.map(({ slot }) => slot.name)))
    await assign(checkpoint, slots, model.sink({ signal, adapter, adapterMode, moments }), { ...plan, signal, onProgress })
    model.finishLoading(calibration)
    return model
  } catch (error) {
    // What made the load fail is what its caller shall see.
    await model?.dispose().catch(() => undefined)
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
