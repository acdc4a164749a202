import { readdirSync, readFileSync } from 'node:fs'
import { bf16ToF32 } from '@octet-llm/core'

/** Every bf16 or f32 tensor of a fixture folder as float32: enough of safetensors for the repository's own files. */
export function readFixture(folder: string): Map<string, Float32Array> {
  const dir = new URL(`../../../../fixtures/${folder}/`, import.meta.url)
  const tensors = new Map<string, Float32Array>()
  for (const file of readdirSync(dir).filter((name) => name.endsWith('.safetensors'))) {
    const bytes = readFileSync(new URL(file, dir))
    const length = Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, { dtype: string; data_offsets: [number, number] }>
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue
      const data = bytes.subarray(8 + length + entry.data_offsets[0], 8 + length + entry.data_offsets[1])
      const wide = entry.dtype === 'F32'
      tensors.set(name, Float32Array.from({ length: data.length / (wide ? 4 : 2) }, (_, i) => (wide ? data.readFloatLE(4 * i) : bf16ToF32(data.readUInt16LE(2 * i)))))
    }
  }
  return tensors
}
