import { readFileSync } from 'node:fs'

const FIXTURES = new URL('../../../../fixtures/', import.meta.url)

export interface Golden {
  readonly shape: readonly number[]
  readonly rows: readonly Float32Array[]
}

/** Float32 matrices of `fixtures/<folder>/golden.safetensors`, by name. */
export function readGolden(folder: string, names: readonly string[]): Record<string, Golden> {
  const file = readFileSync(new URL(`${folder}/golden.safetensors`, FIXTURES))
  const headerLength = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerLength)) as Record<string, { shape: number[]; data_offsets: [number, number] }>
  return Object.fromEntries(names.map((name) => {
    const { shape, data_offsets } = header[name]!
    const bytes = file.subarray(8 + headerLength + data_offsets[0], 8 + headerLength + data_offsets[1])
    const values = Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i))
    const width = shape[1]!
    return [name, { shape, rows: Array.from({ length: shape[0]! }, (_, r) => values.subarray(r * width, (r + 1) * width)) }]
  }))
}
