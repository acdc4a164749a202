import { f32ToBf16 } from '@octet-llm/core'
import { readConfig, saveCheckpoint, type ModelConfig, type TensorEntry } from '@octet-llm/hf-loader'
import type { Device } from '@octet-llm/kernels'
import { TELlamaForCausalLM } from '@octet-llm/models-llama'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const PERIOD = 8191

/** A Llama checkpoint in bf16 with weights of a repeating pattern, written a tensor at a time. */
export async function writeLlama(dir: string, config: ModelConfig['raw'], device: Device, maxShardSize: string): Promise<void> {
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'config.json'), JSON.stringify(config))
  const model = new TELlamaForCausalLM(await readConfig(dir), { device, initialize: false })
  const pattern = Uint16Array.from({ length: PERIOD }, (_, i) => f32ToBf16(0.05 * Math.sin(i)))
  const entries = model.slots().map(({ name, shape }): TensorEntry => {
    const count = shape.reduce((n, d) => n * d, 1)
    return { name, dtype: 'bf16', shape, data: () => [Buffer.from(Uint16Array.from({ length: count }, (_, i) => pattern[i % PERIOD]!).buffer)] }
  })
  await model.dispose()
  await saveCheckpoint(dir, entries, { config, maxShardSize })
}
