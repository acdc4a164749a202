import { type Command, InvalidArgumentError, Option } from 'commander'
import { openDevice } from '@octet-llm/kernels'
import { benchAttention } from '../../bench/attention.js'
import { benchGemm } from '../../bench/gemm.js'
import { benchGenerate, benchPrefill, type GenerateRow, type ModelBenchOptions, type PrefillRow } from '../../bench/model-rows.js'
import { benchNorm } from '../../bench/norm.js'
import { KERNEL_MODELS, kernelShapes } from '../../bench/shapes-of.js'
import { appendRows } from '../../bench/stamp.js'
import type { Context } from '../context.js'
import { addCacheFlags, addModelFlags, withModel, type ModelFlags } from '../model-flags.js'
import { formatTable } from '../table.js'
import { device as deviceName, oneOf, wholeNumber } from '../values.js'

interface KernelFlags {
  readonly device: 'auto' | 'cpu' | 'cuda' | `cuda:${number}`
  readonly shapes: (typeof KERNEL_MODELS)[number]
  readonly tokens: readonly number[]
  readonly contexts: readonly number[]
  readonly fp8?: boolean
  readonly threads?: number
  readonly output?: string
}

interface ModelBenchFlags extends ModelFlags {
  readonly batch: number
  readonly prompt: number
  readonly newTokens: number
  readonly repeats: number
  readonly stepsPerSync?: number
  readonly output?: string
}

type Row = { readonly bench: string }

const counts = (text: string): number[] =>
  text.split(',').map((item) => {
    const value = wholeNumber(1, 1 << 20)(item)
    if (value < 1) throw new InvalidArgumentError('Give counts such as 1,64,2048.')
    return value
  })

/** `octet bench gemm | norm | attention | generate | prefill`: on any device, each figure beside its floor. */
export function addDeviceBenches(bench: Command, context: Context): void {
  addKernelBench(bench, context, 'gemm', 'products of a model at decode and prefill sizes', [1, 16, 64, 2048], (flags, device) =>
    benchGemm(device, { shapes: kernelShapes(flags.shapes), tokens: flags.tokens, fp8: flags.fp8 === true, signal: context.signal }))
  addKernelBench(bench, context, 'norm', 'RMSNorm with and without a residual sum', [1, 64, 4096], (flags, device) =>
    benchNorm(device, { shapes: kernelShapes(flags.shapes), tokens: flags.tokens, signal: context.signal }))
  addKernelBench(bench, context, 'attention', 'decode and causal prefill over a cache', [1, 64], (flags, device) =>
    benchAttention(device, { shapes: kernelShapes(flags.shapes), batches: flags.tokens, contexts: flags.contexts, kv: flags.fp8 === true ? ['bf16', 'e4m3'] : ['bf16'], signal: context.signal }))
  addModelBench(bench, context, 'generate', 'prompts of a model, then new tokens', { prompt: 20, newTokens: 128 }, benchGenerate)
  addModelBench(bench, context, 'prefill', 'prompts of a model to their first token', { prompt: 512, newTokens: 1 }, benchPrefill)
}

function addKernelBench(
  bench: Command,
  context: Context,
  name: 'gemm' | 'norm' | 'attention',
  description: string,
  tokens: readonly number[],
  rows: (flags: KernelFlags, device: Awaited<ReturnType<typeof openDevice>>) => AsyncGenerator<Row & { readonly micros: number; readonly GBPerS: number; readonly share: number; readonly TFLOPPerS?: number }>,
): void {
  const command = bench
    .command(name)
    .description(description)
    .addOption(new Option('--device <NAME>', 'auto, cpu or cuda[:N]').default('auto').argParser(deviceName))
    .addOption(new Option('--shapes <MODEL>', KERNEL_MODELS.join(', ')).default('llama-3-8b').argParser(oneOf(...KERNEL_MODELS)))
    .addOption(new Option(`--${name === 'attention' ? 'batch' : 'tokens'} <COUNTS>`, 'sizes of the batch').default(tokens, tokens.join(',')).argParser(counts))
    .addOption(new Option('--threads <N>', 'CPU threads').argParser(wholeNumber(1, 1024)))
    .addOption(new Option('--output <FILE>', 'append the rows to a .jsonl file, with time and commit'))
  if (name !== 'norm') command.addOption(new Option('--fp8', name === 'gemm' ? 'FP8 products as well' : 'FP8 keys and values as well'))
  if (name === 'attention') command.addOption(new Option('--contexts <LENGTHS>', 'tokens of each sequence').default([512, 2048], '512,2048').argParser(counts))
  command.action(async (given: KernelFlags & { readonly batch?: readonly number[] }) => {
    const flags = { ...given, tokens: given.batch ?? given.tokens }
    const device = await openDevice(flags.device, { threads: flags.threads })
    try {
      const all: (Row & { readonly micros: number; readonly GBPerS: number; readonly share: number; readonly TFLOPPerS?: number })[] = []
      for await (const row of rows(flags, device)) {
        all.push(row)
        context.output.note(line(row))
      }
      await finish(context, all, flags.output, () => formatTable([['what', 'us', 'GB/s', 'TFLOP/s', '% of floor'], ...all.map((row) => [label(row), row.micros.toFixed(1), row.GBPerS.toFixed(0), (row.TFLOPPerS ?? 0).toFixed(1), (100 * row.share).toFixed(0)])], [1, 2, 3, 4]))
    } finally {
      await device.dispose()
    }
  })
}

/** What tells a row from its neighbours. */
function label(row: Row): string {
  const { product, weights, phase, kv, batch, context, M, N, K, D, residual } = row as unknown as Readonly<Record<string, string | number | boolean | undefined>>
  return Object.entries({ product, phase, weights, kv, batch, context, M, N, K, D, residual }).filter(([, value]) => value !== undefined).map(([key, value]) => (typeof value === 'string' ? value : `${key}=${String(value)}`)).join(' ')
}

function line(row: Row & { readonly micros: number; readonly share: number }): string {
  return `${row.bench} ${label(row)}: ${row.micros.toFixed(1)} us, ${(100 * row.share).toFixed(0)}% of its floor`
}

function addModelBench<R extends GenerateRow | PrefillRow>(
  bench: Command,
  context: Context,
  name: 'generate' | 'prefill',
  description: string,
  defaults: { readonly prompt: number; readonly newTokens: number },
  run: (llm: Parameters<typeof benchGenerate>[0], options: ModelBenchOptions) => Promise<R>,
): void {
  const command = addCacheFlags(addModelFlags(bench.command(name).description(description)))
    .addOption(new Option('--batch <N>', 'prompts at once').default(1).argParser(wholeNumber(1, 4096)))
    .addOption(new Option('--prompt <N>', 'tokens of each prompt').default(defaults.prompt).argParser(wholeNumber(1, 1 << 20)))
    .addOption(new Option('--repeats <N>', 'timed runs, after one that warms up; the median counts').default(3).argParser(wholeNumber(1, 100)))
    .addOption(new Option('--output <FILE>', 'append the row to a .jsonl file, with time and commit'))
  if (name === 'generate') {
    command
      .addOption(new Option('--new-tokens <N>', 'new tokens of each prompt').default(defaults.newTokens).argParser(wholeNumber(2, 1 << 20)))
      .addOption(new Option('--steps-per-sync <N>', 'recorded steps that are enqueued ahead').argParser(wholeNumber(1, 4096)))
  }
  command.action(async (given: ModelBenchFlags) => {
    const flags = { ...given, newTokens: given.newTokens ?? defaults.newTokens }
    const { batch, prompt, newTokens, repeats, stepsPerSync, kvDtype, graphs } = flags
    await withModel(flags, context, async (llm) => {
      const row = await run(llm, {
        name: flags.randomWeights ?? flags.model ?? '', fp8: flags.fp8 !== undefined, batch, prompt, newTokens, repeats, stepsPerSync,
        kv: kvDtype === 'fp8' ? 'e4m3' : kvDtype, graphs: graphs ?? true, signal: context.signal,
      })
      await finish(context, [row], flags.output, () => summary(row))
    })
  })
}

function summary(row: GenerateRow | PrefillRow): string {
  const head = `${row.model}${row.fp8 ? ' FP8' : ''}, ${row.kv} cache, ${row.batch} x ${row.prompt} tokens on ${row.hardware.gpu?.name ?? row.hardware.isa}; median of ${row.repeats}`
  const floor = `${(100 * row.share).toFixed(0)}% of the floor`
  if (row.bench === 'prefill') return `${head}\nprefill   ${row.ms.toFixed(1)} ms, ${row.tokensPerS.toFixed(0)} tokens/s, ${floor}\nload      ${row.loadSeconds.toFixed(2)} s\n`
  return `${head}
whole     ${row.seconds.toFixed(3)} s, ${row.newTokens} new tokens each
prefill   ${row.prefillMs.toFixed(1)} ms
decode    ${row.stepMs.toFixed(3)} ms a step, ${row.tokensPerS.toFixed(0)} tokens/s, ${floor}
start     ${row.firstTokenSeconds.toFixed(2)} s to the first token
`
}

async function finish(context: Context, rows: readonly Row[], file: string | undefined, render: () => string): Promise<void> {
  if (file !== undefined) await appendRows(file, rows)
  if (context.json) await context.output.json(rows.length === 1 ? rows[0]! : { rows })
  else await context.output.write(render())
}
