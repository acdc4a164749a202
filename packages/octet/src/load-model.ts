import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { OctetError, type Tokenizer } from '@octet-llm/core'
import type { CallOptions } from '@octet-llm/generation'
import { readConfig, readGenerationConfig, type ModelConfig } from '@octet-llm/hf-loader/config'
import { loadTokenizer } from '@octet-llm/hf-loader/tokenizer'
import { openDevice, type Device, type Isa } from '@octet-llm/kernels'
import { TEGemmaForCausalLM } from '@octet-llm/models-gemma'
import { TELlamaForCausalLM } from '@octet-llm/models-llama'
import type { CausalLM } from '@octet-llm/transformer'
import { isHubId, pullCheckpoint, type PullOptions } from './hub.js'
import { LanguageModel } from './language-model.js'

/** Bytes of weights that are on the device, of all of them. */
export interface LoadProgress {
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface LoadModelOptions {
  /** A device's name, opened for this model and closed with it, or a device of your own. Default `auto`. */
  readonly device?: Device | 'auto' | 'cpu' | 'cuda' | `cuda:${number}`
  /** Of weights and activations: the checkpoint's own (bf16, else f32), or one of the two. Default `auto`. */
  readonly dtype?: 'auto' | 'f32' | 'bf16'
  /** CPU threads of the device opened here. Default: the physical cores. */
  readonly threads?: number
  /** CPU level of the device opened here. Default: the best this CPU has. */
  readonly isa?: Isa | 'auto'
  /** `te` (default) runs fused layers; `reference` Hugging Face's, op by op, on the same weights. */
  readonly decoderLayer?: 'te' | 'reference'
  /** The cache of every run that names none. Default: room for all of a run's sequences at full length. */
  readonly kvCache?: CallOptions['kvCache']
  /** Stops loading: it then throws the signal's reason, unchanged. */
  readonly signal?: AbortSignal
  /** Called as weights reach the device. */
  readonly onProgress?: (progress: LoadProgress) => void
  /** Hub only: branch, tag or commit. Default `main`. */
  readonly revision?: string
  /** Hub only: told what would be downloaded; false refuses. Default: download. */
  readonly confirmPull?: PullOptions['confirm']
}

/**
 * Loads a checkpoint: config, weights, tokenizer and generation defaults.
 * @param source an existing folder, else the name of a checkpoint on the Hugging Face hub (`owner/name`)
 * @throws OctetError `FILE_NOT_FOUND`, `UNSUPPORTED_MODEL`, `INVALID_CONFIG`, `INVALID_JSON`, `CHECKPOINT_MISMATCH` and the
 *   other codes of a damaged checkpoint; `DEVICE_NOT_FOUND`, `OUT_OF_MEMORY`; `HUB_FAILED`; the signal's reason
 */
export async function loadModel(source: string, options: LoadModelOptions = {}): Promise<LanguageModel> {
  const start = performance.now()
  const { signal } = options
  signal?.throwIfAborted()
  const folder = await locate(source, options)
  // The config names the faults that are worth a sentence of their own, before anything else is opened.
  const config = await readConfig(folder, { signal })
  const generationConfig = await readGenerationConfig(folder, { signal })
  const ownedDevice = typeof options.device === 'object' ? undefined : await openDevice(options.device ?? 'auto', { threads: options.threads, isa: options.isa })
  const device = ownedDevice ?? (options.device as Device)
  let tokenizer: Tokenizer | null = null
  let model: CausalLM | undefined
  try {
    tokenizer = await loadTokenizerIfAny(folder, signal)
    model = await loadWeights(folder, config, device, options)
    return new LanguageModel({
      model, tokenizer, generationConfig, folder, ownedDevice, kvCache: options.kvCache, loadSeconds: (performance.now() - start) / 1000,
    })
  } catch (error) {
    await model?.dispose()
    await tokenizer?.dispose()
    await ownedDevice?.dispose()
    throw error
  }
}

/** The folder of a checkpoint: an existing one beats a name on the hub. */
async function locate(source: string, { revision, signal, confirmPull, onProgress }: LoadModelOptions): Promise<string> {
  const found = await stat(source).catch(() => null)
  if (found === null && isHubId(source)) return pullCheckpoint(source, { revision, signal, confirm: confirmPull, onProgress })
  return findCheckpoint(source)
}

/** The absolute path of a checkpoint's folder. @throws OctetError `FILE_NOT_FOUND` */
export async function findCheckpoint(source: string): Promise<string> {
  const folder = resolve(source)
  const found = await stat(folder).catch(() => null)
  if (found?.isDirectory() === true) return folder
  throw new OctetError('FILE_NOT_FOUND', {
    op: 'loadModel',
    argument: source,
    expected: 'a folder with config.json and weights, or a hub name such as owner/name',
    received: found === null ? 'nothing at that path' : 'a file',
    hint: 'check the path',
  })
}

async function loadTokenizerIfAny(folder: string, signal: AbortSignal | undefined): Promise<Tokenizer | null> {
  const found = await stat(resolve(folder, 'tokenizer.json')).catch(() => null)
  return found === null ? null : loadTokenizer(folder, { signal })
}

function loadWeights(folder: string, config: ModelConfig, device: Device, options: LoadModelOptions): Promise<CausalLM> {
  const { dtype, decoderLayer, signal, onProgress } = options
  const common = { device, dtype, decoderLayer, signal, onProgress }
  return config.modelType === 'llama' ? TELlamaForCausalLM.fromPretrained(folder, common) : TEGemmaForCausalLM.fromPretrained(folder, common)
}
