import { join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { Fields } from '../config/fields.js'
import { isJsonObject, readJsonObject, type JsonObject } from '../io/json-file.js'
import { quoteName } from '../io/names.js'
import type { ReadOptions } from '../io/read-tensor.js'

const MAX_BYTES = 2 ** 20

/** What an adapter_config.json of peft says of a LoRA adapter. */
export interface LoraConfig {
  readonly baseModel: string | null
  readonly r: number
  readonly alpha: number
  /** Scaling is alpha / sqrt(r) instead of alpha / r. */
  readonly useRslora: boolean
  readonly dropout: number
  /** Suffixes of module names, or one pattern over whole names; null where the file leaves it to the model. */
  readonly targetModules: readonly string[] | string | null
  readonly rankPattern: ReadonlyMap<string, number>
  readonly alphaPattern: ReadonlyMap<string, number>
  /** Modules that were trained whole and are saved beside the factors. */
  readonly modulesToSave: readonly string[]
  /** A head that is the embedding stays so when one of them is trained (`ensure_weight_tying`). */
  readonly ensureWeightTying: boolean
  readonly raw: JsonObject
}

/** Variants of LoRA whose sum is another than scaling * B (A x). */
const OTHER_SUMS = ['use_dora', 'use_qalora', 'use_bdlora', 'alora_invocation_tokens', 'velora_config', 'monteclora_config', 'kasa_config', 'arrow_config', 'layer_replication', 'trainable_token_indices', 'target_parameters', 'lora_bias', 'fan_in_fan_out']

/** Initialisations that subtract from the model's own weights what the factors begin with: both belong together. */
const MOVED_BASE = /^(?:pissa(?:_niter_\d+)?|olora|corda|loftq|lora_ga)$/

/**
 * Reads `adapter_config.json`.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_JSON`, `INVALID_CONFIG`; `NOT_SUPPORTED` for adapters other than plain LoRA.
 */
export async function readLoraConfig(dir: string, options: ReadOptions = {}): Promise<LoraConfig> {
  const op = 'openLoraAdapter'
  const path = join(dir, 'adapter_config.json')
  const fields = new Fields(op, path, await readJsonObject(path, { op, maxBytes: MAX_BYTES, signal: options.signal }))
  const type = fields.string('peft_type') ?? 'LORA'
  if (type !== 'LORA') throw unsupported(path, 'peft_type', 'LORA', quoteName(type))
  for (const key of OTHER_SUMS) {
    const value = fields.value(key)
    const off = value === undefined || value === false || (Array.isArray(value) && value.length === 0)
    if (!off) throw unsupported(path, key, 'nothing: only plain LoRA is applied', isJsonObject(value) ? 'an object' : String(value).slice(0, 40))
  }
  const start = fields.value('init_lora_weights')
  if (typeof start === 'string' && MOVED_BASE.test(start)) throw unsupported(path, 'init_lora_weights', 'true, false, gaussian, eva or orthogonal: factors for the weights as the model has them', quoteName(start))
  const bias = fields.string('bias') ?? 'none'
  if (bias !== 'none') throw unsupported(path, 'bias', 'none', quoteName(bias))
  return {
    baseModel: fields.string('base_model_name_or_path') ?? null,
    r: fields.integer('r', { min: 1, max: 2 ** 16 }) ?? 8,
    alpha: fields.number('lora_alpha', { min: 0 }) ?? 8,
    useRslora: fields.boolean('use_rslora') ?? false,
    dropout: fields.number('lora_dropout', { min: 0, max: 1 }) ?? 0,
    targetModules: typeof fields.value('target_modules') === 'string' ? fields.string('target_modules')! : (fields.strings('target_modules') ?? null),
    rankPattern: readPattern(fields, 'rank_pattern', 1),
    alphaPattern: readPattern(fields, 'alpha_pattern', 0),
    modulesToSave: fields.strings('modules_to_save') ?? [],
    ensureWeightTying: fields.boolean('ensure_weight_tying') ?? false,
    raw: fields.object,
  }
}

function readPattern(fields: Fields, key: string, min: number): ReadonlyMap<string, number> {
  const pattern = fields.child(key)
  if (pattern === undefined) return new Map()
  return new Map(Object.keys(pattern.object).map((name) => [name, pattern.requiredNumber(name, { min })]))
}

function unsupported(path: string, key: string, expected: string, received: string): OctetError {
  return new OctetError('NOT_SUPPORTED', { op: 'openLoraAdapter', argument: `${path}: ${key}`, expected, received, hint: 'merge the adapter into its model with peft and load that' })
}

/**
 * The value a pattern gives a module, as peft looks it up: the first key that is the module's name or its end after a dot.
 * peft takes keys as regular expressions; here only those that are plain names (with `\.` for a dot, `^` for the whole name)
 * are known, since a pattern out of a file may run for ever.
 * @throws OctetError `NOT_SUPPORTED` for any other key.
 */
export function lookUpPattern(pattern: ReadonlyMap<string, number>, module: string): number | undefined {
  for (const [key, value] of pattern) {
    const plain = key.replaceAll('\\.', '.')
    if (!/^\^?[\w.]+$/.test(plain)) throw unsupported('adapter_config.json', 'rank_pattern or alpha_pattern', 'module names', quoteName(key))
    const name = plain.replace(/^\^/, '')
    if (module === name || (!plain.startsWith('^') && module.endsWith(`.${name}`))) return value
  }
  return undefined
}
