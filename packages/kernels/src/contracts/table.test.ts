import { readFileSync } from 'node:fs'
import { bf16ToF32, f32ToE4m3, f32ToE5m2 } from '@octet-llm/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { listLevels, openDevice, type Device } from '../device.js'
import { OP_NAMES } from '../op-table.js'
import { cast } from '../ops/cast.js'
import { Tensor } from '../tensor.js'
import { runTable, countCases } from './runner.js'
import type { CaseResult } from './tally.js'
import { CONTRACTS } from './table.js'

/** The whole table takes minutes; the fast tier takes a sample that keeps every axis. */
const full = process.env['OCTET_FULL'] === '1'
const reduced = !full
const TIMEOUT = full ? 30 * 60_000 : 120_000

const levels = listLevels().filter((level) => level.supported)
let devices: Device[] = []
beforeAll(async () => {
  devices = await Promise.all(levels.map(({ name }) => openDevice('cpu', { isa: name, threads: 2 })))
})
afterAll(async () => {
  for (const device of devices) await device.dispose()
})

const lines = (failures: readonly CaseResult[]): string[] => failures.slice(0, 10).map((f) => `${f.device} | ${f.filter} | ${f.fault}`)

describe('the table', () => {
  it('has a contract for every op, in the order of the op table', () => {
    expect(CONTRACTS.map((contract) => contract.op)).toEqual([...OP_NAMES])
  })

  it('forces every level of this machine by name', () => {
    expect(devices.map((device) => device.isa)).toEqual(levels.map((level) => level.name))
    expect(devices.length).toBeGreaterThan(0)
  })

  it.each(CONTRACTS.map((contract) => contract.op))('%s holds on every level', { timeout: TIMEOUT }, async (op) => {
    const result = await runTable({ device: devices, filter: op, reduced })
    expect(lines(result.failures)).toEqual([])
    expect(result.skipped).toBe(0)
    expect(result.passed).toBe(countCases({ filter: op, reduced }) * devices.length)
    expect(result.passed).toBeGreaterThan(10 * devices.length)
  })

  it.each(['linear', 'attention', 'rmsNorm', 'layerNorm', 'rope', 'gatedActivation', 'logSoftmax'])(
    '%s: float32 rows are the same to the bit in any batch, split, page size and thread count',
    { timeout: TIMEOUT },
    async (op) => {
      const result = await runTable({ device: devices, mode: 'invariance', filter: op, reduced })
      expect(lines(result.failures)).toEqual([])
      expect(result.passed).toBeGreaterThan(0)
    },
  )

  it('has a kernel for every op on every level', async () => {
    const printed: string[] = []
    const result = await runTable({ device: devices, mode: 'support', print: (line) => printed.push(line) })
    expect(lines(result.failures)).toEqual([])
    expect(result.passed).toBe(CONTRACTS.length * devices.length)
    expect(printed[0]).toMatch(/^fill +cpu\/\w+ +\w+ +out/)
  })

  it('says that no op has a backward', async () => {
    const printed: string[] = []
    expect(await runTable({ device: devices, mode: 'grad', print: (line) => printed.push(line) })).toMatchObject({ passed: 0, failed: 0 })
    expect(printed).toEqual(['grad: no backward rows'])
  })

  it('says how many CUDA cases were not run where there is no GPU', async () => {
    const printed: string[] = []
    const result = await runTable({ device: 'cuda', filter: 'rope', reduced: true, print: (line) => printed.push(line) })
    const cases = countCases({ filter: 'rope', reduced: true })
    if (result.skipped === 0) expect(result).toMatchObject({ passed: cases, failed: 0 })
    else {
      expect(result).toEqual({ passed: 0, failed: 0, skipped: cases, failures: [], ops: {} })
      expect(printed).toEqual([`CUDA: NOT RUN (${cases} cases)`])
    }
  })

  it('times an op and says what share of the floor it reaches', { timeout: TIMEOUT }, async () => {
    const printed: string[] = []
    const result = await runTable({ device: devices.slice(-1), mode: 'perf', filter: 'rmsNorm N=1 D=2048', print: (line) => printed.push(line), peak: { gigabytesPerSecond: 1e6, teraflops: 1e6 } })
    expect(result).toMatchObject({ passed: 1, failed: 0 })
    expect(printed[0]).toMatch(/^rmsNorm .* us .* GB\/s .* TFLOP\/s +\d+% of floor$/)
  })
})

/** The fixture's tensors, by name. */
function fixture(): Map<string, Uint8Array> {
  const bytes = readFileSync(new URL('../../../../fixtures/fp8/fp8_casts.safetensors', import.meta.url))
  const length = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, { data_offsets: [number, number] }>
  return new Map(Object.entries(header).flatMap(([name, { data_offsets }]) => (data_offsets === undefined ? [] : [[name, bytes.subarray(8 + length + data_offsets[0], 8 + length + data_offsets[1])] as const])))
}

describe.each([
  ['e4m3', f32ToE4m3, (code: number) => (code & 0x7f) === 0x7f],
  ['e5m2', f32ToE5m2, (code: number) => (code & 0x7f) > 0x7c],
] as const)('all 65,536 bf16 values cast to %s', (dtype, reference, isNaN_) => {
  const tensors = fixture()
  const bits = tensors.get('bf16_bits')!
  // The fixture keeps NaN's sign and payload; ours is one code.
  const codes = [...tensors].find(([name]) => name.includes(dtype) && tensors.get(name)!.length === 65536)![1].map((code) => (isNaN_(code) ? 0x7f : code))

  it('by core, byte for byte', () => {
    const input = new Uint16Array(Uint8Array.from(bits).buffer)
    expect(Buffer.compare(Uint8Array.from(input, (b) => reference(bf16ToF32(b))), codes)).toBe(0)
  })

  it('by the kernel of every level, byte for byte', async () => {
    for (const device of devices) {
      const x = Tensor.fromBytes(bits, { shape: [256, 256], dtype: 'bf16', device })
      const out = cast({ x, dtype })
      expect(Buffer.compare(await out.toBytes(), codes), device.isa).toBe(0)
      x.dispose()
      out.dispose()
    }
  })
})
