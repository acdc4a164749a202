import { cp, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { QuantizedSource, TensorSource, WeightSink, WeightSlot } from '@octet-llm/core'
import type { ModelConfig } from '../config/index.js'
import { writeSafetensors, type TensorEntry } from '../safetensors/index.js'
import { fixture } from '../testing/support.test-helper.js'

/** The slots of a Gemma or Llama of this config, as its checkpoint names them. */
export function slotsOf(config: ModelConfig, tied = config.tieWordEmbeddings): WeightSlot[] {
  const { hiddenSize: h, intermediateSize: i, headDim: d, vocabSize: v } = config
  const q = config.numAttentionHeads * d
  const kv = config.numKeyValueHeads * d
  const slots: WeightSlot[] = [{ name: 'model.embed_tokens.weight', shape: [v, h] }]
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const at = `model.layers.${layer}`
    const linear = (name: string, out: number, width: number, bias: boolean): void => {
      slots.push({ name: `${at}.${name}.weight`, shape: [out, width], quantizable: true })
      if (bias) slots.push({ name: `${at}.${name}.bias`, shape: [out] })
    }
    linear('self_attn.q_proj', q, h, config.attentionBias)
    linear('self_attn.k_proj', kv, h, config.attentionBias)
    linear('self_attn.v_proj', kv, h, config.attentionBias)
    linear('self_attn.o_proj', h, q, config.attentionBias)
    linear('mlp.gate_proj', i, h, config.mlpBias)
    linear('mlp.up_proj', i, h, config.mlpBias)
    linear('mlp.down_proj', h, i, config.mlpBias)
    const norms = config.modelType.match(/gemma[23]/) ? ['input', 'post_attention', 'pre_feedforward', 'post_feedforward'] : ['input', 'post_attention']
    for (const norm of norms) slots.push({ name: `${at}.${norm}_layernorm.weight`, shape: [h] })
    if (config.modelType === 'gemma3_text') for (const norm of ['q', 'k']) slots.push({ name: `${at}.self_attn.${norm}_norm.weight`, shape: [d] })
  }
  slots.push({ name: 'model.norm.weight', shape: [h] })
  if (!tied) slots.push({ name: 'lm_head.weight', shape: [v, h] })
  return slots
}

/** A sink that keeps what it is given, in order. */
export class RecordingSink implements WeightSink {
  readonly taken: { slot: WeightSlot; source: TensorSource | QuantizedSource }[] = []
  accept(slot: WeightSlot, source: TensorSource | QuantizedSource): void {
    this.taken.push({ slot, source })
  }
  get names(): string[] {
    return this.taken.map(({ slot }) => slot.name)
  }
}

/** A tensor of float32 zeros, or of what `values` says. */
export function entry(name: string, shape: readonly number[], values?: readonly number[]): TensorEntry {
  const data = values === undefined ? new Float32Array(shape.reduce((a, b) => a * b, 1)) : Float32Array.from(values)
  return { name, dtype: 'f32', shape, data }
}

/** A folder with a `model.safetensors` of these tensors. */
export async function singleFile(folder: string, entries: readonly TensorEntry[]): Promise<string> {
  await mkdir(folder, { recursive: true })
  await writeSafetensors(join(folder, 'model.safetensors'), entries)
  return folder
}

/** A folder with an index over these files of tensors. */
export async function shardedFiles(folder: string, files: Readonly<Record<string, readonly TensorEntry[]>>, weightMap?: Readonly<Record<string, unknown>>): Promise<string> {
  await mkdir(folder, { recursive: true })
  for (const [file, entries] of Object.entries(files)) await writeSafetensors(join(folder, file), entries)
  const truth = Object.fromEntries(Object.entries(files).flatMap(([file, entries]) => entries.map(({ name }) => [name, file])))
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: { total_size: 1 }, weight_map: weightMap ?? truth }))
  return folder
}

/** A copy of a fixture that a test may damage. */
export async function copyOf(name: string, folder: string): Promise<string> {
  await cp(fixture(name), folder, { recursive: true })
  return folder
}
