import { appendFile } from 'node:fs/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Isa } from '@octet-llm/kernels'
import { benchCpu, type CpuBenchRow } from '../../bench/cpu.js'
import { SHAPES, type ShapeName } from '../../bench/shapes.js'
import { stamped } from '../../bench/stamp.js'
import type { Context } from '../context.js'
import { formatBytes, formatTable } from '../table.js'
import { oneOf, wholeNumber } from '../values.js'
import { addDeviceBenches } from './bench-device.js'

interface BenchFlags {
  readonly shape: ShapeName
  readonly threads?: number
  readonly isa?: Isa | 'auto'
  readonly newTokens: number
  readonly prompts: readonly number[]
  readonly repeats: number
  readonly peer?: string
  readonly load: boolean
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
    .addOption(new Option('--no-load', 'leave out the timing of loading'))
    .addOption(new Option('--output <FILE>', 'append the row to a .jsonl file, with time and commit'))
    .action(async (flags: BenchFlags) => {
      const row = await benchCpu({ ...flags, peer: flags.peer ?? null, signal: context.signal, note: (line) => context.output.note(line) })
      if (flags.output !== undefined) await appendFile(flags.output, `${JSON.stringify(await stamped(row))}\n`)
      if (context.json) await context.output.json(row)
      else await context.output.write(render(row))
    })
}

function render(row: CpuBenchRow): string {
  const { ours, probe, peer, ratio, anonymousMemory, load } = row
  const against = (value: number | undefined): string => (value === undefined ? '' : `${value.toFixed(2)}x`)
  const speed = (value: number): string => `${value < 100 ? value.toFixed(2) : value.toFixed(0)} tokens/s`
  const rows = [
    ['', 'octet', ...(peer === null ? [] : [peer.name, 'ratio'])],
    ['decode', speed(ours.decodeTokensPerS), ...(peer === null ? [] : [speed(peer.decodeTokensPerS), against(ratio?.decode)])],
    ...Object.entries(ours.prefillTokensPerS).map(([length, value]) => [`prefill ${length}`, speed(value), ...(peer === null ? [] : [speed(peer.prefillTokensPerS[length]!), against(ratio?.prefill[length])])]),
  ]
  const memory = anonymousMemory === null ? 'not told by this system' : `${formatBytes(anonymousMemory.bytes)} (weights + cache + 300 MB is ${formatBytes(anonymousMemory.allowed)})`
  const loading = load === null ? '' : `loading   ${load.GBPerS.toFixed(2)} GB/s (${formatBytes(load.bytes)} in ${load.seconds.toFixed(2)} s)\n`
  return `${row.shape} ${row.dtype} on ${row.hardware.cpu}, ${row.hardware.isa}, ${row.hardware.threads} threads; median of ${row.repeats}

${formatTable(rows, [1, 2, 3])}
weights   ${formatBytes(ours.weightsBytes)}; decoding reads ${ours.decodeGBPerS.toFixed(1)} GB/s, ${(100 * probe.share).toFixed(0)}% of the ${probe.GBPerS.toFixed(1)} GB/s this machine reads at best
memory    ${memory}
${loading}`
}
