import { type Command, Option } from 'commander'
import type { Isa } from '@octet-llm/kernels'
import { benchQuality, type QualityRow } from '../../bench/quality.js'
import { appendRows } from '../../bench/stamp.js'
import { ROUNDINGS, type Rounding } from '../../quantize/rounding.js'
import type { Context } from '../context.js'
import { formatTable } from '../table.js'
import { device, oneOf, wholeNumber } from '../values.js'

interface QualityFlags {
  readonly model: readonly string[]
  readonly bytes: number
  readonly text?: readonly string[]
  readonly window: number
  readonly seed: number
  readonly rounding?: Rounding
  readonly device: 'auto' | 'cpu' | 'cuda' | `cuda:${number}`
  readonly threads?: number
  readonly isa?: Isa | 'auto'
  readonly output?: string
}

/** `octet bench fp8-quality`. */
export function addBenchQuality(bench: Command, context: Context): void {
  bench
    .command('fp8-quality')
    .description('what FP8 changes: perplexity and KL divergence from the bf16 model')
    .requiredOption('--model <DIR...>', 'folders of bf16 checkpoints')
    .addOption(new Option('--bytes <N>', 'bytes that the bf16 model samples to be scored, and as many to calibrate on').default(50_000).argParser(wholeNumber(1, 100_000_000)))
    .addOption(new Option('--text <FILE...>', 'texts to score beside the sample; absent ones are told and left out'))
    .addOption(new Option('--window <N>', 'tokens that are scored together; at most as many as the model was trained on').default(256).argParser(wholeNumber(2, 1 << 20)))
    .addOption(new Option('--seed <N>', 'seed of the sample; the one to calibrate on has the next').default(0).argParser(wholeNumber(0)))
    .addOption(new Option('--rounding <RULE>', 'of weights: compensated, by the inputs of the sample to calibrate on, or nearest (default: compensated on the CPU)').argParser(oneOf(...ROUNDINGS)))
    .addOption(new Option('--device <NAME>', 'auto, cpu or cuda[:N]').default('cpu').argParser(device))
    .addOption(new Option('--threads <N>', 'CPU threads').argParser(wholeNumber(1, 1024)))
    .addOption(new Option('--isa <LEVEL>', 'CPU level to run').argParser(oneOf('auto', 'baseline', 'avx2', 'avx512', 'avx512bf16', 'neon')))
    .addOption(new Option('--output <FILE>', 'append the rows to a .jsonl file, with time and commit'))
    .action(async (flags: QualityFlags) => {
      const { rows, absent } = await benchQuality({ ...flags, models: flags.model, texts: flags.text ?? [], signal: context.signal, note: (line) => context.output.note(line) })
      if (flags.output !== undefined) await appendRows(flags.output, rows)
      if (context.json) await context.output.json({ rows, absent })
      else await context.output.write(render(rows))
    })
}

const percent = (value: number): string => `${value < 0 ? '-' : '+'}${(100 * Math.abs(value)).toFixed(2)}%`

/** A table for each model and text. */
function render(rows: readonly QualityRow[]): string {
  const groups = [...new Set(rows.map(({ model, text }) => `${model}, ${text}`))]
  return groups.map((group) => renderGroup(group, rows.filter(({ model, text }) => `${model}, ${text}` === group))).join('\n')
}

function renderGroup(title: string, rows: readonly QualityRow[]): string {
  const [first] = rows
  const table = [
    ['weights + activations', 'cache', 'perplexity', 'change', 'mean KL', '99% below', 'same top', 'verdict'],
    ...rows.map(({ variant, kv, perplexity, change, kl, sameTop, verdict }) => [variant, kv, perplexity.toFixed(3), percent(change), kl.mean.toFixed(5), kl.p99.toFixed(4), `${(100 * sameTop).toFixed(1)}%`, verdict]),
  ]
  const ran = rows.map(({ variant, kv, ran: { weights, rounding, inputs, head, cache } }) => [variant, kv, list(weights), list(rounding) || 'none', list(inputs), head, cache.dtype, scales(cache.kScale), scales(cache.vScale)])
  return `${title}: ${first!.tokens} tokens, ${first!.bytes} bytes; bf16 has perplexity ${first!.reference.toFixed(3)}
${formatTable(table, [2, 3, 4, 5, 6])}
ran on ${first!.ran.device}: ${list(first!.ran.kernels, (name, variant) => `${name} ${variant}`)}
${formatTable([['weights + activations', 'cache', 'weights stored', 'rounded', 'inputs quantized', 'head', 'cache stored', 'scales of K', 'scales of V'], ...ran])}`
}

function list<T>(entries: Readonly<Record<string, T>>, show: (name: string, value: T) => string = (name, value) => `${String(value)} ${name}`): string {
  return Object.entries(entries).map(([name, value]) => show(name, value)).join(', ')
}

const scales = (range: readonly [number, number] | null): string => (range === null ? 'none' : range.map((scale) => scale.toPrecision(3)).join(' to '))
