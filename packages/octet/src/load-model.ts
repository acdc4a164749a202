import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Tokenizer } from '@octet-llm/core'
import type { CallOptions } from '@octet-llm/generation'
import { readConfig, type ModelConfig } from '@octet-llm/hf-loader/config'
import { resolveModel, type PullOptions } from '@octet-llm/hf-loader/hub'
import { loadTokenizer } from '@octet-llm/hf-loader/tokenizer'
import { openDevice, type Device, type Isa } from '@octet-llm/kernels'
import { TEGemmaForCausalLM } from '@octet-llm/models-gemma'
import { TELlamaForCausalLM, type FromPretrainedOptions } from '@octet-llm/models-llama'
import { LanguageModel } from './language-model.js'

/** How far a phase is: `download` from the hub, then `load` onto the device. */
export interface LoadProgress {
  readonly phase: 'download' | 'load'
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface LoadModelOptions
  extends Pick<FromPretrainedOptions, 'dtype' | 'decoderLayer' | 'fp8' | 'calibration' | 'moments' | 'adapter' | 'adapterMode'>,
    Pick<PullOptions, 'revision' | 'endpoint' | 'token' | 'cacheDir'> {
  /** A device's name, opened for this model and closed with it, or a device of your own. Default `auto`. */
  readonly device?: Device | 'auto' | 'cpu' | 'cuda' | `cuda:${number}`
  /** CPU threads of the device opened here. Default: the physical cores. */
  readonly threads?: number
  /** CPU level of the device opened here. Default: the best this CPU has. */
  readonly isa?: Isa | 'auto'
  /** The cache of every run that names none. Default: room for all of a run's sequences at full length. */
  readonly kvCache?: CallOptions['kvCache']
  /** Stops loading: it then throws the signal's reason, unchanged. */
  readonly signal?: AbortSignal
  /** Called as bytes arrive. */
  readonly onProgress?: (progress: LoadProgress) => void
  /** Hub only: told what would be downloaded; false refuses. Default: download. */
  readonly confirmPull?: PullOptions['confirm']
}

/**
 * Loads a checkpoint: config, weights, tokenizer and generation defaults.
 * @param source an existing folder, else the name of a checkpoint on the Hugging Face hub (`owner/name`), from the cache
 *   where it is there in full
 * @throws OctetError `FILE_NOT_FOUND`, `UNSUPPORTED_MODEL`, `INVALID_CONFIG`, `INVALID_JSON`, `CHECKPOINT_MISMATCH` and the
 *   other codes of a damaged checkpoint; `DEVICE_NOT_FOUND`, `OUT_OF_MEMORY`; `HUB_FAILED`; the signal's reason
 */
export async function loadModel(source: string, options: LoadModelOptions = {}): Promise<LanguageModel> {
  const start = performance.now()
  const { signal } = options
  const folder = await locate(source, options)
  // Before a device and a tokenizer are opened: most wrong folders show here.
  const config = await readConfig(folder, { signal })
  const ownedDevice = typeof options.device === 'object' ? undefined : await openDevice(options.device ?? 'auto', { threads: options.threads, isa: options.isa })
  let tokenizer: Tokenizer | null = null
  try {
    tokenizer = await loadTokenizerIfAny(folder, signal)
    const model = await loadWeights(folder, config, ownedDevice ?? (options.device as Device), options)
    const loadSeconds = (performance.now() - start) / 1000
    return new LanguageModel({ model, tokenizer, generationConfig: model.generationConfig, folder, ownedDevice, kvCache: options.kvCache, loadSeconds })
  } catch (error) {
    // What made the load fail is what its caller shall see.
    await Promise.allSettled([tokenizer?.dispose(), ownedDevice?.dispose()])
    throw error
  }
}

/** Folder of a checkpoint, pulled where it has to be. */
export async function locate(source: string, { confirmPull, onProgress, revision, endpoint, token, cacheDir, signal }: Omit<LoadModelOptions, 'device'>): Promise<string> {
  const { dir } = await resolveModel(source, {
    revision, endpoint, token, cacheDir, signal,
    confirm: confirmPull,
    onProgress: ({ doneBytes, totalBytes }) => onProgress?.({ phase: 'download', doneBytes, totalBytes }),
  })
  return dir
}

/** Null for a checkpoint without a tokenizer. */
export async function loadTokenizerIfAny(folder: string, signal: AbortSignal | undefined): Promise<Tokenizer | null> {
  const found = await stat(join(folder, 'tokenizer.json')).catch(() => null)
  return found === null ? null : loadTokenizer(folder, { signal })
}

/** The model alone. */
export function loadWeights(folder: string, config: ModelConfig, device: Device, options: LoadModelOptions): Promise<TEGemmaForCausalLM | TELlamaForCausalLM> {
  const { dtype, decoderLayer, fp8, calibration, moments, adapter, adapterMode, signal, onProgress } = options
  const common = {
    device, dtype, decoderLayer, fp8, calibration, moments, adapter, adapterMode, signal,
    onProgress: ({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }) => onProgress?.({ phase: 'load', doneBytes, totalBytes }),
  }
  return config.modelType === 'llama' ? TELlamaForCausalLM.fromPretrained(folder, common) : TEGemmaForCausalLM.fromPretrained(folder, common)
}
