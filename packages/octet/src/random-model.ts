import { stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { parseConfig, readConfig, type ModelConfig } from '@octet-llm/hf-loader/config'
import { openDevice, type Device } from '@octet-llm/kernels'
import { TEGemmaForCausalLM } from '@octet-llm/models-gemma'
import { TELlamaForCausalLM } from '@octet-llm/models-llama'
import { randomDtype } from '@octet-llm/transformer'
import { LanguageModel } from './language-model.js'
import type { LoadModelOptions } from './load-model.js'
import { RANDOM_MODELS, type RandomModelName } from './random-configs.js'

export { RANDOM_MODELS, type RandomModelConfig, type RandomModelName } from './random-configs.js'

export interface RandomModelOptions extends Pick<LoadModelOptions, 'device' | 'dtype' | 'decoderLayer' | 'fp8' | 'threads' | 'isa' | 'kvCache' | 'signal'> {
  /** Of the weights; a whole number below 2^53. Default 0. */
  readonly seed?: number
}

/**
 * A model with random weights, made on the device: for measuring, where no checkpoint is at hand. The values are a public
 * function of (seed, tensor, element), the same everywhere: docs/random-weights.md. It has no tokenizer: token ids go in.
 * @param config a name of {@link RANDOM_MODELS}, a `config.json`, or its folder
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_ARGUMENT`, `UNSUPPORTED_MODEL`, `INVALID_CONFIG`, `INVALID_JSON`;
 *   `DEVICE_NOT_FOUND`, `OUT_OF_MEMORY`; the signal's reason
 */
export async function randomModel(config: RandomModelName | (string & {}), options: RandomModelOptions = {}): Promise<LanguageModel> {
  const start = performance.now()
  const { signal, kvCache, threads, isa, device: place, ...rest } = options
  const parsed = await configOf(config, signal)
  const ownedDevice = typeof place === 'object' ? undefined : await openDevice(place ?? 'auto', { threads, isa })
  const device = ownedDevice ?? (place as Device)
  let model: TEGemmaForCausalLM | TELlamaForCausalLM | undefined
  try {
    signal?.throwIfAborted()
    device.checkRoom(weightsBytes(parsed, rest), { op: 'randomModel', purpose: `the weights of ${config}`, hint: 'take a smaller model, FP8, or another device' })
    model = parsed.modelType === 'llama' ? TELlamaForCausalLM.fromConfig(parsed, { ...rest, device }) : TEGemmaForCausalLM.fromConfig(parsed, { ...rest, device })
    await device.synchronize()
    const loadSeconds = (performance.now() - start) / 1000
    return new LanguageModel({ model, tokenizer: null, generationConfig: model.generationConfig, folder: config, ownedDevice, kvCache, loadSeconds })
  } catch (error) {
    // What made it fail is what its caller shall see.
    await model?.dispose().catch(() => undefined)
    await ownedDevice?.dispose().catch(() => undefined)
    throw error
  }
}

/** Bytes of the matrices. */
function weightsBytes(config: ModelConfig, { dtype: asked = 'auto', fp8 }: RandomModelOptions): number {
  const dtype = asked === 'auto' ? randomDtype(config.dtype) : asked
  const { hiddenSize: d, intermediateSize: f, headDim, numAttentionHeads, numKeyValueHeads, numHiddenLayers, vocabSize } = config
  const item = dtype === 'f32' ? 4 : 2
  const layers = numHiddenLayers * (2 * d * headDim * (numAttentionHeads + numKeyValueHeads) + 3 * d * f)
  return vocabSize * d * (config.tieWordEmbeddings ? 1 : 2) * item + layers * (fp8 === undefined || fp8 === false ? item : 1)
}

async function configOf(config: string, signal: AbortSignal | undefined): Promise<ModelConfig> {
  if (Object.hasOwn(RANDOM_MODELS, config)) return parseConfig(RANDOM_MODELS[config as RandomModelName])
  const found = await stat(config).catch(() => null)
  if (found?.isDirectory() === true) return readConfig(config, { signal })
  if (found !== null && basename(config) === 'config.json') return readConfig(dirname(config), { signal })
  throw new OctetError(found === null ? 'FILE_NOT_FOUND' : 'INVALID_ARGUMENT', {
    op: 'randomModel', argument: 'config', expected: `${Object.keys(RANDOM_MODELS).join(', ')}, a config.json or its folder`, received: config,
  })
}
