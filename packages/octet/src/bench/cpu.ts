/**
 * `octet bench cpu`: decoding and prefill of a random model on the CPU, beside what the machine can read at best, and
 * beside node-llama-cpp on the same shape where it is installed. Decoding reads every weight once a token, so its bound is
 * memory; prefill's is arithmetic.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OctetError } from '@octet-llm/core'
import { parseConfig } from '@octet-llm/hf-loader/config'
import { writeSafetensors } from '@octet-llm/hf-loader/safetensors'
import { measureReadBandwidth, openDevice, type Device, type Isa } from '@octet-llm/kernels'
import { TELlamaForCausalLM } from '@octet-llm/models-llama'
import { loadModel } from '../load-model.js'
import { writeRandomGguf } from './gguf.js'
import { anonymousBytes, lastLevelCacheBytes, median, spread } from './measure.js'
import { randomBf16Block, repeatBytes } from './random-bytes.js'
import { configOf, SHAPES, tensorsOf, type BenchShape, type ShapeName } from './shapes.js'

export interface CpuBenchOptions {
  readonly shape: ShapeName
  readonly threads?: number
  readonly isa?: Isa | 'auto'
  /** New tokens of a decode run. */
  readonly newTokens: number
  /** Prompt lengths of prefill; decoding starts behind the first. */
  readonly prompts: readonly number[]
  /** Runs of each side, taken in turn; the median counts. */
  readonly repeats: number
  /** Folder whose node_modules has node-llama-cpp; null for no peer. */
  readonly peer: string | null
  /** Whether to write a checkpoint and time loading it. */
  readonly load: boolean
  readonly signal: AbortSignal
  readonly note: (line: string) => void
}

interface Side {
  readonly decodeTokensPerS: number
  /** Tokens a second by prompt length. */
  readonly prefillTokensPerS: Readonly<Record<string, number>>
}

export interface CpuBenchRow {
  readonly bench: 'cpu'
  readonly shape: string
  readonly dtype: 'bf16'
  readonly hardware: { readonly cpu: string; readonly threads: number; readonly isa: string; readonly node: string }
  readonly repeats: number
  readonly ours: Side & { readonly decodeGBPerS: number; readonly decodeSpread: number; readonly weightsBytes: number }
  /** 10^9 bytes a second that the machine reads at best, and decoding's share of it. */
  readonly probe: { readonly GBPerS: number; readonly share: number; readonly bytes: number }
  /** Null where the system does not tell. `allowed` is weights + cache + 300 MB. */
  readonly anonymousMemory: { readonly bytes: number; readonly allowed: number } | null
  readonly load: { readonly seconds: number; readonly GBPerS: number; readonly bytes: number } | null
  readonly peer: (Side & { readonly name: string }) | null
  /** Ours / the peer's. */
  readonly ratio: { readonly decode: number; readonly prefill: Readonly<Record<string, number>> } | null
}

const MEMORY_SLACK = 300e6
const PEER_RUNNER = fileURLToPath(new URL('./peer-runner.js', import.meta.url))

/** Runs the benchmark. @throws the signal's reason; what the model or the peer throws */
export async function benchCpu(options: CpuBenchOptions): Promise<CpuBenchRow> {
  const shape = SHAPES[options.shape]
  const work = await mkdtemp(join(tmpdir(), 'octet-bench-'))
  const device = await openDevice('cpu', { threads: options.threads, isa: options.isa })
  try {
    const { ours, theirs, memory } = await race(shape, device, work, options)
    const probe = await readProbe(device, options)
    const load = options.load ? await timeLoading(shape, device, work, options) : null
    return {
      bench: 'cpu',
      shape: shape.name,
      dtype: 'bf16',
      hardware: { cpu: cpus()[0]?.model.trim() ?? 'unknown', threads: device.threads, isa: device.isa, node: process.versions.node },
      repeats: options.repeats,
      ours,
      probe: { ...probe, share: ours.decodeGBPerS / probe.GBPerS },
      anonymousMemory: memory,
      load,
      peer: theirs,
      ratio: theirs === null ? null : compare(ours, theirs),
    }
  } finally {
    await device.dispose()
    await rm(work, { recursive: true, force: true })
  }
}

function compare(ours: Side, theirs: Side): CpuBenchRow['ratio'] {
  const prefill = Object.fromEntries(Object.entries(ours.prefillTokensPerS).map(([length, speed]) => [length, speed / theirs.prefillTokensPerS[length]!]))
  return { decode: ours.decodeTokensPerS / theirs.decodeTokensPerS, prefill }
}

/** Our side and the peer's in turn, so that a machine that slows down slows both. */
async function race(shape: BenchShape, device: Device, work: string, options: CpuBenchOptions): Promise<{ ours: CpuBenchRow['ours']; theirs: CpuBenchRow['peer']; memory: CpuBenchRow['anonymousMemory'] }> {
  const gguf = join(work, 'random.gguf')
  if (options.peer !== null) {
    options.note('writing a GGUF with random weights for the peer')
    await writeRandomGguf(gguf, shape)
  }
  options.note(`drawing random weights of ${shape.name} on the device`)
  const model = new TELlamaForCausalLM(parseConfig(configOf(shape)), { device, dtype: 'bf16', seed: 1 })
  try {
    await runOurs(model, options, 16, 2)
    const mine: Side[] = []
    const peers: (Side & { name: string })[] = []
    for (let round = 0; round < options.repeats; round++) {
      mine.push(await ourSide(model, options))
      options.note(`ours  ${describe(mine.at(-1)!)}`)
      if (options.peer === null) continue
      peers.push(await peerSide(options.peer, gguf, device.threads, options))
      options.note(`peer  ${describe(peers.at(-1)!)}`)
    }
    const { weightsBytes } = model.memory()
    const side = middle(mine)
    return {
      ours: {
        ...side,
        decodeGBPerS: (side.decodeTokensPerS * weightsBytes) / 1e9,
        decodeSpread: spread(mine.map((each) => each.decodeTokensPerS)),
        weightsBytes,
      },
      theirs: peers.length === 0 ? null : { name: peers[0]!.name, ...middle(peers) },
      memory: memoryReport(shape, weightsBytes, options),
    }
  } finally {
    await model.dispose()
  }
}

function memoryReport(shape: BenchShape, weightsBytes: number, { prompts, newTokens }: CpuBenchOptions): CpuBenchRow['anonymousMemory'] {
  const now = anonymousBytes()
  if (now === null) return null
  const cacheBytes = 2 * 2 * shape.numLayers * shape.numKvHeads * shape.headDim * (Math.max(...prompts) + newTokens)
  return { bytes: now, allowed: weightsBytes + cacheBytes + MEMORY_SLACK }
}

const describe = (side: Side): string =>
  `decode ${side.decodeTokensPerS.toFixed(2)} tokens/s, prefill ${Object.entries(side.prefillTokensPerS).map(([length, speed]) => `${length}: ${speed.toFixed(0)}`).join(', ')} tokens/s`

function middle(sides: readonly Side[]): Side {
  const lengths = Object.keys(sides[0]!.prefillTokensPerS)
  return {
    decodeTokensPerS: median(sides.map((side) => side.decodeTokensPerS)),
    prefillTokensPerS: Object.fromEntries(lengths.map((length) => [length, median(sides.map((side) => side.prefillTokensPerS[length]!))])),
  }
}

async function ourSide(model: TELlamaForCausalLM, options: CpuBenchOptions): Promise<Side> {
  const prefill: Record<string, number> = {}
  let decode = 0
  for (const [i, length] of options.prompts.entries()) {
    const { timings } = await runOurs(model, options, length, i === 0 ? options.newTokens + 1 : 1)
    prefill[String(length)] = timings.prefill_tokens_per_s
    if (i === 0) decode = timings.tokens_per_s
  }
  return { decodeTokensPerS: decode, prefillTokensPerS: prefill }
}

function runOurs(model: TELlamaForCausalLM, { signal }: CpuBenchOptions, length: number, newTokens: number): ReturnType<TELlamaForCausalLM['generate']> {
  const inputIds = [Array.from({ length }, (_, i) => 300 + ((i * 7919) % 200))]
  return model.generate({ inputIds, maxNewTokens: newTokens, ignoreEos: true, signal })
}

/** The peer in a process of its own. @throws OctetError `OP_FAILED` with what it printed */
function peerSide(folder: string, gguf: string, threads: number, { newTokens, prompts, signal }: CpuBenchOptions): Promise<Side & { name: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PEER_RUNNER, folder, gguf, String(threads), String(newTokens), ...prompts.map(String)], { stdio: ['ignore', 'pipe', 'pipe'], signal })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => { stdout += text })
    child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
    child.on('error', (error) => reject(signal.aborted ? signal.reason : error))
    child.on('close', (code) => {
      if (code !== 0) return reject(new OctetError('OP_FAILED', { op: 'bench', argument: '--peer', message: `node-llama-cpp in ${folder} failed: ${stderr.trim().split('\n').slice(-3).join(' ')}`, hint: 'install it there with npm' }))
      const { peer, ...side } = JSON.parse(stdout.trim().split('\n').at(-1)!) as Side & { peer: string }
      resolve({ name: peer, ...side })
    })
  })
}

/** The best of 1 … n threads over a buffer of at least 8 last-level caches. */
async function readProbe(device: Device, { note }: CpuBenchOptions): Promise<{ GBPerS: number; bytes: number }> {
  const bytes = Math.max(8 * lastLevelCacheBytes(), 2 ** 28)
  note('probing how fast memory can be read')
  let best = 0
  for (let threads = 1; threads <= device.threads; threads++) best = Math.max(best, await measureReadBandwidth({ bytes, threads, isa: device.isa as Isa }))
  return { GBPerS: best, bytes }
}

/** Writes a checkpoint with random weights and loads it from the page cache; the median of the repeats. */
async function timeLoading(shape: BenchShape, device: Device, work: string, { repeats, signal, note }: CpuBenchOptions): Promise<CpuBenchRow['load']> {
  note('writing a checkpoint with random weights and loading it')
  const block = randomBf16Block(2)
  const path = join(work, 'model.safetensors')
  await writeFile(join(work, 'config.json'), JSON.stringify(configOf(shape)))
  await writeSafetensors(path, tensorsOf(shape).map(({ name, shape: dims }) => ({ name, shape: dims, dtype: 'bf16' as const, data: () => repeatBytes(block, 2 * dims.reduce((a, b) => a * b, 1)) })), { metadata: { format: 'pt' }, signal })
  const { size } = await stat(path)
  const seconds: number[] = []
  for (let round = 0; round <= repeats; round++) {
    const llm = await loadModel(work, { device, signal })
    // The first round may still read from the disk.
    if (round > 0) seconds.push(llm.loadSeconds)
    await llm.dispose()
  }
  const typical = median(seconds)
  return { seconds: typical, GBPerS: size / typical / 1e9, bytes: size }
}
