import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { OctetError, sameShape, type TensorSource, type WeightSlot } from '@octet-llm/core'
import { listSome, quoteName, showShape } from '../io/names.js'
import type { ReadOptions } from '../io/read-tensor.js'
import { openSafetensors } from '../safetensors/index.js'
import { openTorchBin } from '../torch-bin/index.js'
import { lookUpPattern, readLoraConfig, type LoraConfig } from './config.js'

const OP = 'openLoraAdapter'

/** Slots of the two weights that a model may share. */
export const HEAD = 'lm_head.weight'
export const EMBEDDING = 'model.embed_tokens.weight'

/** The factors of one linear layer: y += scaling * B (A x). */
export interface LoraModule {
  /** [r, in] */
  readonly a: TensorSource
  /** [out, r] */
  readonly b: TensorSource
  readonly r: number
  /** alpha / r, or alpha / sqrt(r) with rslora. */
  readonly scaling: number
}

/** A LoRA adapter of peft: where its tensors lie and how they are scaled. */
export interface LoraAdapter {
  /** Absolute path of the folder. */
  readonly dir: string
  readonly config: LoraConfig
  /** By the weight they add to, as a model's slots name it: `model.layers.0.self_attn.q_proj.weight`. */
  readonly modules: ReadonlyMap<string, LoraModule>
  /** Weights that replace the model's own (`modules_to_save`, and what peft saves of a head that has factors), by slot name. */
  readonly replacements: ReadonlyMap<string, TensorSource>
}

/**
 * Reads a LoRA adapter folder as peft writes it: `adapter_config.json` with `adapter_model.safetensors` or
 * `adapter_model.bin`.
 * @throws OctetError `FILE_NOT_FOUND`, `INVALID_JSON`, `INVALID_CONFIG`, `NOT_SUPPORTED` (DoRA and other variants),
 *   `CHECKPOINT_MISMATCH` (factors that do not pair, of unlike ranks, or of another type), and what the file formats throw.
 * @throws the signal's reason, unchanged.
 */
export async function openLoraAdapter(dir: string, options: ReadOptions = {}): Promise<LoraAdapter> {
  options.signal?.throwIfAborted()
  const folder = resolve(dir)
  const config = await readLoraConfig(folder, options)
  const sources = await readSources(folder, options)
  const embedding = sources.find(({ name }) => /\.lora_embedding_[AB]/.test(name))
  if (embedding !== undefined) throw new OctetError('NOT_SUPPORTED', { op: OP, argument: folder, expected: 'factors of linear layers', received: `factors of an embedding (${quoteName(embedding.name)})`, hint: 'merge the adapter into its model with peft and load that' })
  const factors = new Map<string, { a?: TensorSource; b?: TensorSource }>()
  const replacements = new Map<string, TensorSource>()
  const faults: string[] = []
  // Where an embedding or a head has factors, peft writes its own weight beside them.
  const factored = new Set(sources.map(({ name }) => splitName(name)).flatMap(({ module, part }) => (part === 'a' ? [module] : [])))
  for (const source of sources) {
    const { module, part } = splitName(source.name)
    if (part === 'a' || part === 'b') factors.set(module, { ...factors.get(module), [part]: source })
    else if (part === 'base' && factored.has(module)) replacements.set(`${module}.weight`, source)
    else if (part === 'whole' && isSaved(config, module)) replacements.set(module, source)
    else faults.push(`${quoteName(source.name)} is no LoRA factor`)
  }
  const modules = new Map<string, LoraModule>()
  for (const [module, { a, b }] of factors) {
    const fault = a === undefined || b === undefined ? 'has one factor of two' : faultOf(a, b, expectedRank(config, module))
    if (fault !== undefined) faults.push(`${quoteName(module)} ${fault}`)
    else modules.set(`${module}.weight`, { a: a!, b: b!, r: a!.shape[0]!, scaling: scalingOf(config, module, a!.shape[0]!) })
  }
  if (modules.size === 0 && replacements.size === 0 && faults.length === 0) faults.push('it has no factors')
  if (faults.length > 0) throw mismatch(folder, 'pairs of LoRA factors that agree with adapter_config.json', faults)
  return { dir: folder, config, modules, replacements }
}

/**
 * Checks that an adapter belongs to a model: each pair of factors has a weight of its shape, each replacement a slot.
 * @throws OctetError `CHECKPOINT_MISMATCH` listing all that does not fit.
 */
export function checkLoraAdapter(adapter: LoraAdapter, slots: readonly WeightSlot[]): void {
  const shapes = new Map(slots.map(({ name, shape }) => [name, shape]))
  const faults: string[] = []
  const check = (name: string, shape: readonly number[]): void => {
    const slot = shapes.get(name)
    if (slot === undefined) faults.push(`the model has no ${quoteName(name)}`)
    else if (!sameShape(slot, shape)) faults.push(`${quoteName(name)} expected ${showShape(slot)}, received ${showShape(shape)}`)
  }
  for (const [name, { a, b }] of adapter.modules) check(name, [b.shape[0]!, a.shape[1]!])
  for (const [name, { shape }] of adapter.replacements) check(name, shape)
  if (faults.length > 0) throw mismatch(adapter.dir, 'an adapter of this model', faults)
}

async function readSources(folder: string, options: ReadOptions): Promise<TensorSource[]> {
  const safetensors = join(folder, 'adapter_model.safetensors')
  const torch = join(folder, 'adapter_model.bin')
  const useTorch = (await stat(safetensors).catch(() => null)) === null && (await stat(torch).catch(() => null)) !== null
  const file = useTorch ? await openTorchBin(torch, options) : await openSafetensors(safetensors, options)
  try {
    return [...file.tensors.keys()].map((name) => file.source(name))
  } finally {
    await file.close()
  }
}

/** `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` → its module and part. */
function splitName(name: string): { module: string; part: 'a' | 'b' | 'base' | 'whole' | 'other' } {
  const inner = /^base_model\.model\.(.+)$/.exec(name)?.[1]?.replace(/^model\.language_model\.|^language_model\.model\./, 'model.')
  if (inner === undefined) return { module: name, part: 'other' }
  // An adapter's own name may stand before `.weight` where the file was not written by save_pretrained.
  const factor = /^(.+)\.lora_([AB])(?:\.default)?\.weight$/.exec(inner)
  if (factor !== null) return { module: factor[1]!, part: factor[2] === 'A' ? 'a' : 'b' }
  const base = /^(.+)\.base_layer\.weight$/.exec(inner)
  if (base !== null) return { module: base[1]!, part: 'base' }
  if (/\.lora_/.test(inner)) return { module: inner, part: 'other' }
  return { module: inner.replace('.modules_to_save.default.', '.').replace('.modules_to_save.', '.'), part: 'whole' }
}

/** A module that `modules_to_save` names, or what peft ties to one. */
function isSaved({ modulesToSave, ensureWeightTying }: LoraConfig, tensor: string): boolean {
  const module = tensor.replace(/\.(?:weight|bias)$/, '')
  if (ensureWeightTying && (tensor === HEAD || tensor === EMBEDDING)) return true
  return modulesToSave.some((name) => module === name || module.endsWith(`.${name}`))
}

function expectedRank(config: LoraConfig, module: string): number {
  return lookUpPattern(config.rankPattern, module) ?? config.r
}

function scalingOf(config: LoraConfig, module: string, r: number): number {
  const alpha = lookUpPattern(config.alphaPattern, module) ?? config.alpha
  return config.useRslora ? alpha / Math.sqrt(r) : alpha / r
}

function faultOf(a: TensorSource, b: TensorSource, rank: number): string | undefined {
  for (const { name, dtype, shape } of [a, b]) {
    if (dtype !== 'f32' && dtype !== 'bf16' && dtype !== 'f16') return `has ${quoteName(name)} in ${dtype}`
    if (shape.length !== 2) return `has ${quoteName(name)} of shape ${showShape(shape)}`
  }
  if (a.shape[0] !== rank || b.shape[1] !== rank) return `has factors ${showShape(a.shape)} and ${showShape(b.shape)} for rank ${rank}`
  return undefined
}

function mismatch(dir: string, expected: string, faults: readonly string[]): OctetError {
  return new OctetError('CHECKPOINT_MISMATCH', { op: OP, argument: dir, expected, received: `${faults.length} faults: ${listSome(faults, 50)}`, hint: 'use the adapter with the model it was made for' })
}
