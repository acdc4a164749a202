import type { Device } from '@octet-llm/kernels'
import { assign, openCheckpoint, readConfig, readGenerationConfig, sharesEmbedding, type AssignProgress, type Checkpoint, type ModelConfig } from '@octet-llm/hf-loader'

import type { TEGemmaOptions, TEGemmaForCausalLM } from './model.js'

export interface FromPretrainedOptions {
  readonly device: Device
  /** Of activations. `auto` (default): the config's, else the first weight's; float16 checkpoints run in float32. */
  readonly dtype?: 'auto' | 'f32' | 'bf16'
  /** Default 'te'. */
  readonly decoderLayer?: 'te' | 'reference'
  /** How `exportState` of a layer names QKV. Default false. */
  readonly fuseQkvParams?: boolean
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
    const dtypes = chooseDtypes(options.dtype ?? 'auto', config, checkpoint)
    model = make(config, { device, ...dtypes, decoderLayer, fuseQkvParams, tieWordEmbeddings: tied, generationConfig, initialize: false })
    await assign(checkpoint, model.slots(), model.sink({ signal }), { tied, signal, onProgress })
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
 * them exactly; a file of several dtypes, or of FP8 to de-quantize, is stored as float32.
 */
function chooseDtypes(asked: 'auto' | 'f32' | 'bf16', config: ModelConfig, checkpoint: Checkpoint): Pick<TEGemmaOptions, 'dtype' | 'weightDtype'> {
  const stored = new Set([...checkpoint.sources.values()].filter((source) => source.shape.length > 1).map((source) => source.dtype))
  const own = config.dtype ?? [...stored][0]
  const dtype = asked === 'auto' ? (own === 'bf16' ? 'bf16' : 'f32') : asked
  const only = stored.size === 1 ? [...stored][0] : undefined
  return { dtype, weightDtype: dtype === 'f32' && (only === 'bf16' || only === 'f16') ? only : dtype }
}
