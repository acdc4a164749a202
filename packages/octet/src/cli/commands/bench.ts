import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Isa } from '@octet-llm/kernels'
import { benchCpu, type CpuBenchRow, type OurSide } from '../../bench/cpu.js'
import type { PeerSide } from '../../bench/cpu-sides.js'
import { SHAPES, type ShapeName } from '../../bench/shapes.js'
import { appendRows } from '../../bench/stamp.js'
import type { Context } from '../context.js'
import { formatBytes, formatTable } from '../table.js'
import { oneOf, wholeNumber } from '../values.js'
import { addDeviceBenches } from './bench-device.js'
import { addBenchQuality } from './bench-quality.js'

interface BenchFlags {
  readonly shape: ShapeName
  readonly threads?: number
  readonly isa?: Isa | 'auto'
  readonly newTokens: number
  readonly prompts: readonly number[]
  readonly repeats: number
  readonly peer?: string
  readonly load: boolean
  readonly fp8?: boolean
  readonly output?: string
}

const lengths = (text: string): number[] =>
  text.split(',').map((item) => {
    const value = wholeNumber(1, 8000)(item)
    if (value < 1) throw new InvalidArgumentError('Give lengths such as 128,512.')
    return value
  })

export function addBench(program: Command, context: Context): void {
  const bench = program.command('bench').description('measure speed on this machine')
  addDeviceBenches(bench, context)
  bench
    .command('cpu')
    .description('decode, prefill, memory and loading of a model with random bf16 weights')
    .addOption(new Option('--shape <NAME>', Object.keys(SHAPES).join(' or ')).default('llama-3.2-1b').argParser(oneOf(...(Object.keys(SHAPES) as ShapeName[]))))
    .addOption(new Option('--prompts <LENGTHS>', 'prompt lengths of prefill').default([128, 512], '128,512').argParser(lengths))
    .addOption(new Option('--new-tokens <N>', 'new tokens of a decode run').default(48).argParser(wholeNumber(1, 4000)))
    .addOption(new Option('--repeats <N>', 'runs of each side; the median counts').default(3).argParser(wholeNumber(1, 100)))
    .addOption(new Option('--threads <N>', 'CPU threads').argParser(wholeNumber(1, 1024)))
    .addOption(new Option('--isa <LEVEL>', 'CPU level to run').argParser(oneOf('auto', 'baseline', 'avx2', 'avx512', 'avx512bf16', 'neon')))
    .addOption(new Option('--peer <DIR>', 'folder whose node_modules has node-llama-cpp: run it on the same shape, in turn'))
    .addOption(new Option('--fp8', 'the same model with FP8 weights too, with its head in bf16 and in FP8; the peer runs its Q8_0 too'))
    .addOption(new Option('--no-load', 'leave out the timing of loading'))
    .addOption(new Option('--output <FILE>', 'append the row to a .jsonl file, with time and commit'))
    .action(async (flags: BenchFlags) => {
      const row = await benchCpu({ ...flags, fp8: flags.fp8 === true, peer: flags.peer ?? null, signal: context.signal, note: (line) => context.output.note(line) })
      if (flags.output !== undefined) await appendRows(flags.output, [row])
      if (context.json) await context.output.json(row)
      else await context.output.write(render(row))
    })
  addBenchQuality(bench, context)
}

const speed = (value: number): string => `${value < 100 ? value.toFixed(2) : value.toFixed(0)} tokens/s`
const times = (value: number): string => `${value.toFixed(2)}x`

function render(row: CpuBenchRow): string {
  const { ours, probe, fp8, hardware } = row
  return `${row.shape} on ${hardware.cpu}, ${hardware.isa}, ${hardware.threads} threads; median of ${row.repeats}; the machine reads ${probe.GBPerS.toFixed(1)} GB/s at best

${formatTable(speedRows(row), [1, 2, 3, 4])}
${[{ name: row.dtype, ...row, ...ours, share: probe.share }, ...(fp8?.sides ?? []).map((side) => ({ name: `fp8, ${headName(side.head)} head`, ...side }))].map(renderModel).join('')}`
}

const headName = (dtype: string): string => (dtype === 'e4m3' ? 'fp8' : dtype)

/** One line a model: decode, prefill of each length, and how they stand to bf16 and to the peer. */
function speedRows({ ours, peer, ratio, fp8, dtype }: CpuBenchRow): string[][] {
  const lengths = Object.keys(ours.prefillTokensPerS)
  const line = (name: string, side: OurSide | PeerSide) => [name, speed(side.decodeTokensPerS), ...lengths.map((length) => speed(side.prefillTokensPerS[length]!))]
  const over = (name: string, of: { decode: number; prefill: Readonly<Record<string, number>> } | null) => (of === null ? [] : [[`  over ${name}`, times(of.decode), ...lengths.map((length) => times(of.prefill[length]!))]])
  return [
    ['', 'decode', ...lengths.map((length) => `prefill ${length}`)],
    line(`octet ${dtype}`, ours),
    ...(peer === null ? [] : [line(`${peer.name} bf16`, peer)]),
    ...over('its bf16', ratio),
    ...(fp8 === null || fp8.peer === null ? [] : [line(`${fp8.peer.name} Q8_0`, fp8.peer)]),
    ...(fp8?.sides ?? []).flatMap((side) => [line(`octet fp8, ${headName(side.head)} head`, side), ...over('our bf16', side.overBf16), ...over('its Q8_0', side.overPeer)]),
  ]
}

function renderModel({ name, weightsBytes, decodeGBPerS, share, anonymousMemory: memory, load }: Pick<OurSide, 'weightsBytes' | 'decodeGBPerS'> & Pick<CpuBenchRow, 'anonymousMemory' | 'load'> & { name: string; share: number }): string {
  const peak = memory === null ? 'not told by this system' : `${formatBytes(memory.bytes)} at most (weights + cache + 300 MB is ${formatBytes(memory.allowed)})`
  const loading = load === null ? '' : `\n  loading   ${load.GBPerS.toFixed(2)} GB/s (a checkpoint of ${formatBytes(load.bytes)} in ${load.seconds.toFixed(2)} s)`
  return `${name}
  weights   ${formatBytes(weightsBytes)}; decoding reads ${decodeGBPerS.toFixed(1)} GB/s, ${(100 * share).toFixed(0)}% of what the machine reads
  memory    ${peak}${loading}
`
}
