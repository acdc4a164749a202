/**
 * `octet bench cpu`: decoding and prefill of a random model on the CPU, beside what the machine can read at best, and
 * beside node-llama-cpp on the same shape where it is installed. Decoding reads every weight once a token, so its bound is
 * memory; prefill's is arithmetic. With `fp8` the same checkpoint is loaded in FP8 too, and the peer also runs its Q8_0.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { measureReadBandwidth, openDevice, type Device, type Isa } from '@octet-llm/kernels'
import type { LanguageModel } from '../language-model.js'
import { BF16, FP8_KINDS, loadKind, timeLoading, weightBytes, writeCheckpoint, type Loaded, type LoadReport, type MemoryReport, type ModelKind } from './cpu-models.js'
import { compare, describe, middle, ourSide, peerSide, runOnce, type PeerSide, type Ratio, type RunOptions, type Side } from './cpu-sides.js'
import { writeRandomGguf, type GgufType } from './gguf.js'
import { lastLevelCacheBytes, spread } from './measure.js'
import { SHAPES, type ShapeName } from './shapes.js'

export interface CpuBenchOptions extends RunOptions {
  readonly shape: ShapeName
  readonly threads?: number
  readonly isa?: Isa | 'auto'
  /** Runs of each side, taken in turn; the median counts. */
  readonly repeats: number
  /** Folder whose node_modules has node-llama-cpp; null for no peer. */
  readonly peer: string | null
  /** Whether loading is timed. */
  readonly load: boolean
  /** Whether the model runs with FP8 weights too. */
  readonly fp8: boolean
  readonly note: (line: string) => void
}

/** Speeds of one of our models. */
export interface OurSide extends Side {
  /** 10^9 bytes of weights that decoding reads a second. */
  readonly decodeGBPerS: number
  readonly decodeSpread: number
  readonly weightsBytes: number
}

/** The model with FP8 weights, by row, and activations by token. */
export interface Fp8Side extends OurSide {
  /** Dtype of the output head. */
  readonly head: string
  /** How many weights are stored in which granularity, read back from the model. */
  readonly weights: Readonly<Record<string, number>>
  /** Over our bf16, and over the peer's Q8_0. */
  readonly overBf16: Ratio
  readonly overPeer: Ratio | null
  /** Decoding's share of what the machine reads at best. */
  readonly share: number
  readonly anonymousMemory: MemoryReport | null
  readonly load: LoadReport | null
}

export interface CpuBenchRow {
  readonly bench: 'cpu'
  readonly shape: string
  readonly dtype: 'bf16'
  readonly hardware: { readonly cpu: string; readonly threads: number; readonly isa: string; readonly node: string }
  readonly repeats: number
  readonly ours: OurSide
  /** 10^9 bytes a second that the machine reads at best, and decoding's share of it. */
  readonly probe: { readonly GBPerS: number; readonly share: number; readonly bytes: number }
  /** Null where the system does not tell. */
  readonly anonymousMemory: MemoryReport | null
  readonly load: LoadReport | null
  readonly peer: PeerSide | null
  /** Ours / the peer's. */
  readonly ratio: Ratio | null
  /** Null unless asked for. */
  readonly fp8: { readonly sides: readonly Fp8Side[]; readonly peer: PeerSide | null } | null
}

/** Runs the benchmark. @throws the signal's reason; what the model or the peer throws */
export async function benchCpu(options: CpuBenchOptions): Promise<CpuBenchRow> {
  const shape = SHAPES[options.shape]
  const { note, peer, signal } = options
  const work = await mkdtemp(join(tmpdir(), 'octet-bench-'))
  const device = await openDevice('cpu', { threads: options.threads, isa: options.isa })
  try {
    note(`writing a checkpoint of ${shape.name} with random weights`)
    const bytes = await writeCheckpoint(work, shape, signal)
    const loaded: Loaded[] = []
    for (const kind of [BF16, ...(options.fp8 ? FP8_KINDS : [])]) {
      note(`loading ${kind.name}`)
      loaded.push(await timeLoading(work, kind, device, { ...options, bytes, repeats: options.load ? options.repeats : 0 }))
    }
    const types: GgufType[] = peer === null ? [] : options.fp8 ? ['bf16', 'q8_0'] : ['bf16']
    for (const type of types) {
      note(`writing a GGUF with random ${type} weights for the peer`)
      await writeRandomGguf(join(work, `${type}.gguf`), shape, type)
    }
    const race = await runRace(work, loaded, types, device, options)
    return report(race, loaded, await readProbe(device, options), device, options)
  } finally {
    await device.dispose()
    await rm(work, { recursive: true, force: true })
  }
}

interface Race {
  /** One of each kind. */
  readonly ours: readonly OurSide[]
  readonly peers: ReadonlyMap<GgufType, PeerSide>
}

/** Our sides and the peer's in turn, so that a machine that slows down slows all. */
async function runRace(work: string, loaded: readonly Loaded[], types: readonly GgufType[], device: Device, options: CpuBenchOptions): Promise<Race> {
  const { repeats, note, signal } = options
  const racers: { kind: ModelKind; llm: LanguageModel; sides: Side[] }[] = []
  const peers = types.map((type) => ({ type, sides: [] as PeerSide[] }))
  try {
    for (const { kind } of loaded) racers.push({ kind, llm: await loadKind(work, kind, device, signal), sides: [] })
    for (const { llm } of racers) await runOnce(llm, 16, 2, signal)
    for (let round = 0; round < repeats; round++) {
      for (const { kind, llm, sides } of racers) {
        sides.push(await ourSide(llm, options))
        note(`ours (${kind.name})  ${describe(sides.at(-1)!)}`)
      }
      for (const { type, sides } of peers) {
        sides.push(await peerSide(options.peer!, join(work, `${type}.gguf`), device.threads, options))
        note(`peer (${type})  ${describe(sides.at(-1)!)}`)
      }
    }
    return {
      ours: racers.map(({ llm, sides }) => summary(sides, weightBytes(llm))),
      peers: new Map(peers.map(({ type, sides }) => [type, { name: sides[0]!.name, ...middle(sides) }])),
    }
  } finally {
    for (const { llm } of racers) await llm.dispose()
  }
}

function summary(sides: readonly Side[], { held, read }: { held: number; read: number }): OurSide {
  const side = middle(sides)
  return { ...side, decodeGBPerS: (side.decodeTokensPerS * read) / 1e9, decodeSpread: spread(sides.map((each) => each.decodeTokensPerS)), weightsBytes: held }
}

function report({ ours: [plain, ...quantized], peers }: Race, [bf16, ...loaded]: readonly Loaded[], probe: { GBPerS: number; bytes: number }, device: Device, options: CpuBenchOptions): CpuBenchRow {
  const ours = plain!
  const peer = peers.get('bf16') ?? null
  const peerQ8 = peers.get('q8_0') ?? null
  const sides = quantized.map((side, i): Fp8Side => ({
    ...side,
    head: loaded[i]!.head,
    weights: loaded[i]!.weights,
    overBf16: compare(side, ours),
    overPeer: peerQ8 === null ? null : compare(side, peerQ8),
    share: side.decodeGBPerS / probe.GBPerS,
    anonymousMemory: loaded[i]!.memory,
    load: loaded[i]!.load,
  }))
  return {
    bench: 'cpu',
    shape: SHAPES[options.shape].name,
    dtype: 'bf16',
    hardware: { cpu: cpus()[0]?.model.trim() ?? 'unknown', threads: device.threads, isa: device.isa, node: process.versions.node },
    repeats: options.repeats,
    ours,
    probe: { ...probe, share: ours.decodeGBPerS / probe.GBPerS },
    anonymousMemory: bf16!.memory,
    load: bf16!.load,
    peer,
    ratio: peer === null ? null : compare(ours, peer),
    fp8: options.fp8 ? { sides, peer: peerQ8 } : null,
  }
}

/** The best of 1 … n threads over a buffer of at least 8 last-level caches. */
async function readProbe(device: Device, { note }: CpuBenchOptions): Promise<{ GBPerS: number; bytes: number }> {
  const bytes = Math.max(8 * lastLevelCacheBytes(), 2 ** 28)
  note('probing how fast memory can be read')
  let best = 0
  for (let threads = 1; threads <= device.threads; threads++) best = Math.max(best, await measureReadBandwidth({ bytes, threads, isa: device.isa as Isa }))
  return { GBPerS: best, bytes }
}
