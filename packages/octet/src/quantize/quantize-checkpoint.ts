import { copyFile, mkdir, readdir, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { OctetError, type ErrorCode } from '@octet-llm/core'
import { recipeToJSON, type Recipe, type RecipeJson } from '@octet-llm/fp8-recipe'
import { checkFreeFolder, parseShardSize, writeFolder, writeSafetensors } from '@octet-llm/hf-loader'
import { readConfig, type ModelConfig } from '@octet-llm/hf-loader/config'
import { openDevice, type Device } from '@octet-llm/kernels'
import type { TEGemmaForCausalLM } from '@octet-llm/models-gemma'
import type { TELlamaForCausalLM } from '@octet-llm/models-llama'
import { calibrate, calibrationEntries, countTokens, resolveFp8, type Calibration, type ForwardInput, type Fp8InferenceOptions, type InputMoments } from '@octet-llm/transformer'
import { loadTokenizerIfAny, loadWeights, locate, type LoadModelOptions } from '../load-model.js'
import { readCalibrationFile } from './calibration-file.js'
import { checkRounding, momentsFor, type Rounding } from './rounding.js'

const OP = 'quantizeCheckpoint'
/** Tokens of a calibration row where nothing else is said. */
const ROW_LENGTH = 512

/** Where the static scales of a calibrated checkpoint lie, under its folder; not beside the weights, which other engines read by their extension. */
export const RECIPE_STATE_FILE = 'octet/recipe_state.safetensors'

/** What makes a folder of weights a model that writes and chats, and the terms it comes under. */
const COMPANIONS = /^(?:generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\.json|.*\.jinja|(?:LICENSE|NOTICE|USE_POLICY).*)$/

export interface QuantizeProgress {
  readonly phase: 'download' | 'load' | 'calibrate' | 'save'
  /** Bytes; tokens while calibrating. */
  readonly done: number
  readonly total: number
}

export interface QuantizeCheckpointOptions
  extends Pick<LoadModelOptions, 'device' | 'threads' | 'isa' | 'dtype' | 'adapter' | 'signal' | 'revision' | 'endpoint' | 'token' | 'cacheDir' | 'confirmPull'> {
  /** A recipe, or its name. Default: weights by row, activations by token or by a calibrated scale. */
  readonly recipe?: Recipe | string
  /** The output head in FP8 too. Default false. */
  readonly fp8LmHead?: boolean
  /** A .txt or .jsonl file, or batches: static scales of activations and of an FP8 cache are taken from them. Default: none. */
  readonly calibrate?: string | Iterable<ForwardInput> | AsyncIterable<ForwardInput> | undefined
  /** Scales of an earlier calibration, or the safetensors file that holds them. Not with `calibrate`. */
  readonly calibration?: Calibration | string | undefined
  /**
   * How codes of weights are chosen: `compensated`, so that their errors cancel in products with the inputs that `calibrate` saw,
   * in the same scales and the same form, or each to `nearest`. Default: compensated with `calibrate` on a CPU device.
   */
  readonly rounding?: Rounding | undefined
  /** Most tokens of a row of a calibration file. Default 512, or the model's context. */
  readonly rowLength?: number
  /** Most bytes of a weight file. Default `5GB`. */
  readonly maxShardSize?: number | string
  readonly onProgress?: (progress: QuantizeProgress) => void
}

export interface QuantizedFolder {
  /** Absolute path. */
  readonly output: string
  /** Names of the files, sorted. */
  readonly files: readonly string[]
  readonly recipe: RecipeJson | null
  /** What the calibration saw; null without one. */
  readonly calibrated: { readonly rows: number; readonly tokens: number } | null
  /** `kept`: the checkpoint was in FP8 already, and no adapter was merged; with one, what it changed was rounded to `nearest`. */
  readonly rounding: Rounding | 'kept'
  readonly bytes: {
    /** FP8 weights and their scales. */
    readonly quantized: number
    /** The same weights in bf16. */
    readonly quantizedAsBf16: number
    /** Embeddings, norms, biases and what stays unquantized. */
    readonly other: number
  }
}

/**
 * Writes a checkpoint in FP8, in the compressed-tensors form that other engines read, with its config, generation
 * defaults, tokenizer and template; where it was calibrated, the scales are also in {@link RECIPE_STATE_FILE}, which
 * `calibration` takes. Loaded with `fp8: true` the result computes, bit for bit, what the model did that was saved; rounded to
 * nearest, what the source does with the same recipe and calibration. The folder appears whole or not at all.
 * @param source folder of a checkpoint, or its name on the hub
 * @param output a folder that does not exist or is empty
 * @throws OctetError `INVALID_ARGUMENT` (an occupied output, a recipe for a checkpoint that is in FP8 already, an empty
 *   calibration, compensated rounding without one), `NOT_SUPPORTED` (compensated rounding on a GPU), `RECIPE_NOT_CALIBRATED`, `RECIPE_NOT_SUPPORTED`, `FILE_WRITE_FAILED`, `INVALID_JSON`, and what
 *   `loadModel` throws; the signal's reason. Nothing is left then.
 */
export async function quantizeCheckpoint(source: string, output: string, options: QuantizeCheckpointOptions = {}): Promise<QuantizedFolder> {
  const { signal, onProgress } = options
  const fp8 = checkOptions(options)
  // Before a download that may take an hour.
  await checkFreeFolder(output, { op: OP })
  const { onProgress: _, maxShardSize: __, calibrate: ___, recipe: ____, ...load } = options
  const folder = await locate(source, { ...load, onProgress: ({ doneBytes, totalBytes }) => onProgress?.({ phase: 'download', done: doneBytes, total: totalBytes }) })
  const config = await readConfig(folder, { signal })
  if (config.quantizationConfig !== null && options.recipe !== undefined) throw refuse('INVALID_ARGUMENT', 'recipe', 'none: the checkpoint is in FP8 already and keeps its weights as they are', describe(options.recipe), 'leave the recipe out, or quantize the original checkpoint')
  if (config.quantizationConfig !== null && options.rounding === 'compensated') throw refuse('INVALID_ARGUMENT', 'rounding', 'none: the checkpoint is in FP8 already and keeps its weights as they are', 'compensated', 'quantize the original checkpoint')
  return writeFolder(output, (aside) => withDevice(options, (device) => new Quantizer(folder, config, fp8, device, options).run(aside, resolve(output))), { op: OP, signal })
}

/** What can be refused before anything is read. */
function checkOptions(options: QuantizeCheckpointOptions): Fp8InferenceOptions {
  const { recipe, fp8LmHead, maxShardSize, rowLength } = options
  if (maxShardSize !== undefined) parseShardSize(maxShardSize)
  if (rowLength !== undefined && !(Number.isSafeInteger(rowLength) && rowLength > 0)) throw refuse('INVALID_ARGUMENT', 'rowLength', 'a whole number of at least 1', String(rowLength))
  if (options.calibrate !== undefined && options.calibration !== undefined) throw refuse('INVALID_ARGUMENT', 'calibration', 'either calibrate or calibration', 'both')
  checkRounding(options.rounding, OP)
  if (options.rounding === 'compensated' && options.calibrate === undefined) throw refuse('INVALID_ARGUMENT', 'rounding', 'nearest without a calibration', 'compensated', 'calibrate on a text')
  // Left out, both are as the checkpoint says where it is in FP8 already.
  const fp8 = { ...(recipe === undefined ? {} : { recipe }), ...(fp8LmHead === undefined ? {} : { fp8LmHead }) }
  const settled = resolveFp8(fp8, options.calibrate !== undefined || options.calibration !== undefined)
  if (settled?.recipe !== undefined) recipeToJSON(settled.recipe)
  return fp8
}

async function withDevice<T>({ device, threads, isa }: QuantizeCheckpointOptions, work: (device: Device) => Promise<T>): Promise<T> {
  if (typeof device === 'object') return work(device)
  const own = await openDevice(device ?? 'auto', { threads, isa })
  return work(own).finally(() => own.dispose())
}

type Model = TEGemmaForCausalLM | TELlamaForCausalLM

/** One quantization, once all is known to be in order. */
class Quantizer {
  #seen: { rows: number; tokens: number } | null = null
  #moments: InputMoments | undefined

  constructor(
    private readonly folder: string,
    private readonly config: ModelConfig,
    private readonly fp8: Fp8InferenceOptions,
    private readonly device: Device,
    private readonly options: QuantizeCheckpointOptions,
  ) {}

  async run(aside: string, output: string): Promise<QuantizedFolder> {
    const { adapter, calibrate, rounding } = this.options
    const kept = this.config.quantizationConfig !== null
    this.#moments = calibrate === undefined || kept ? undefined : momentsFor(rounding, this.device)
    try {
      const calibration = calibrate === undefined ? this.options.calibration : await this.#calibrate(calibrate)
      const model = await this.#load({ fp8: this.fp8, moments: this.#moments, ...(calibration === undefined ? {} : { calibration }) })
      return await this.#save(model, aside, output, kept && adapter === undefined ? 'kept' : this.#moments === undefined ? 'nearest' : 'compensated')
    } finally {
      this.#moments?.dispose()
    }
  }

  /** Disposes the model. */
  async #save(model: Model, aside: string, output: string, rounding: QuantizedFolder['rounding']): Promise<QuantizedFolder> {
    const { maxShardSize, signal, onProgress } = this.options
    try {
      await model.exportQuantized(aside, {
        signal,
        ...(maxShardSize === undefined ? {} : { maxShardSize }),
        onProgress: ({ doneBytes, totalBytes }) => onProgress?.({ phase: 'save', done: doneBytes, total: totalBytes }),
      })
      const recipe = model.fp8?.recipe === undefined ? null : recipeToJSON(model.fp8.recipe)
      await this.#saveState(aside, model.calibration, recipe)
      await copyCompanions(this.folder, aside)
      return { output, files: await namesBelow(aside), recipe, calibrated: this.#seen, rounding, bytes: bytesOf(model) }
    } finally {
      await model.dispose()
    }
  }

  /** The unquantized model's own scales. */
  async #calibrate(batches: NonNullable<QuantizeCheckpointOptions['calibrate']>): Promise<Calibration> {
    const rows = typeof batches === 'string' ? await this.#readRows(batches) : undefined
    const model = await this.#load({})
    try {
      return await calibrate(model, this.#watched(rows?.map((row) => ({ inputIds: [row] })) ?? (batches as Iterable<ForwardInput>), rows?.reduce((sum, row) => sum + row.length, 0)), { moments: this.#moments })
    } finally {
      await model.dispose()
    }
  }

  /** The tokenizer is there only while it is needed. */
  async #readRows(path: string): Promise<number[][]> {
    const { signal, rowLength } = this.options
    const { vocabSize, maxPositionEmbeddings } = this.config
    const tokenizer = await loadTokenizerIfAny(this.folder, signal)
    try {
      return await readCalibrationFile(path, { tokenizer, vocabSize, rowLength: Math.min(rowLength ?? ROW_LENGTH, maxPositionEmbeddings), signal })
    } finally {
      await tokenizer?.dispose()
    }
  }

  async *#watched(batches: Iterable<ForwardInput> | AsyncIterable<ForwardInput>, total: number | undefined): AsyncGenerator<ForwardInput> {
    const seen = (this.#seen = { rows: 0, tokens: 0 })
    for await (const batch of batches) {
      this.options.signal?.throwIfAborted()
      yield batch
      seen.rows += 'shape' in batch.inputIds ? batch.inputIds.shape[0]! : batch.inputIds.length
      seen.tokens += countTokens(batch)
      this.options.onProgress?.({ phase: 'calibrate', done: seen.tokens, total: total ?? seen.tokens })
    }
  }

  #load(extra: Pick<LoadModelOptions, 'fp8' | 'calibration' | 'moments'>): Promise<Model> {
    const { dtype, adapter, signal, onProgress } = this.options
    return loadWeights(this.folder, this.config, this.device, { dtype, adapter, signal, ...extra, onProgress: ({ doneBytes, totalBytes }) => onProgress?.({ phase: 'load', done: doneBytes, total: totalBytes }) })
  }

  /** Nothing without a calibration: the recipe itself is in config.json. */
  async #saveState(aside: string, calibration: Calibration | undefined, recipe: RecipeJson | null): Promise<void> {
    if (calibration === undefined) return
    const path = join(aside, RECIPE_STATE_FILE)
    await mkdir(join(path, '..'))
    await writeSafetensors(path, calibrationEntries(calibration), { metadata: { format: 'pt', recipe: JSON.stringify(recipe) }, signal: this.options.signal })
  }
}

function bytesOf(model: Model): QuantizedFolder['bytes'] {
  const weights = [...new Set(model.weights.values())]
  const quantized = weights.filter((weight) => weight.rule !== undefined)
  const sum = (sizes: readonly number[]): number => sizes.reduce((total, n) => total + n, 0)
  const own = sum(quantized.map((weight) => weight.byteLength))
  return { quantized: own, quantizedAsBf16: sum(quantized.map((weight) => 2 * weight.size)), other: sum(weights.map((weight) => weight.byteLength)) - own }
}

async function copyCompanions(from: string, to: string): Promise<void> {
  for (const name of await readdir(from)) {
    // A link that leads nowhere is no file to copy.
    if (!COMPANIONS.test(name) || (await stat(join(from, name)).catch(() => null))?.isFile() !== true) continue
    try {
      await copyFile(join(from, name), join(to, name))
    } catch (cause) {
      throw new OctetError('FILE_WRITE_FAILED', { op: OP, argument: basename(name), expected: 'a file that can be copied', received: (cause as NodeJS.ErrnoException).code ?? String(cause), hint: 'check the folders, their permissions and the free space', cause })
    }
  }
}

async function namesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)).sort()
}

function describe(recipe: Recipe | string): string {
  return typeof recipe === 'string' ? recipe : recipe.name
}

function refuse(code: ErrorCode, argument: string, expected: string, received: string, hint?: string): OctetError {
  return new OctetError(code, { op: OP, argument, expected, received, ...(hint === undefined ? {} : { hint }) })
}
