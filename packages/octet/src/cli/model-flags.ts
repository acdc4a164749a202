import { existsSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { describeBackends, type BackendReport } from '@octet-llm/kernels'
import { loadModel, type LoadModelOptions } from '../load-model.js'
import type { LanguageModel } from '../language-model.js'
import { randomModel } from '../random-model.js'
import { askBeforePull } from './ask.js'
import type { Context } from './context.js'
import { usage } from './failure.js'
import { createProgress } from './progress.js'
import { addRandomFlags, type RandomFlags } from './random-flags.js'
import { device, oneOf, wholeNumber } from './values.js'

/** Flags of every command that loads a model: which, and where it runs. */
export interface DeviceFlags {
  readonly model: string
  readonly device: NonNullable<LoadModelOptions['device']>
  readonly dtype: NonNullable<LoadModelOptions['dtype']>
  readonly threads?: number
  readonly isa?: LoadModelOptions['isa']
  readonly revision?: string
  readonly yes?: boolean
}

/** Flags of every command that runs a model. */
export interface ModelFlags extends Omit<DeviceFlags, 'model'>, RandomFlags {
  /** Missing where `randomWeights` is given. */
  readonly model?: string
  readonly fp8?: string | true
  readonly fp8LmHead?: boolean
  readonly calibration?: string
  readonly adapter?: string
  readonly adapterMode?: 'merge' | 'apply'
  readonly kvDtype?: 'bf16' | 'fp8' | 'f32'
  readonly paged?: boolean
  readonly pageSize?: number
  readonly graphs?: boolean
}

export function addDeviceFlags(command: Command): Command {
  return command
    .requiredOption('--model <DIR|HUB_ID>', 'folder of a checkpoint, or its name on the hub')
    .addOption(new Option('--device <NAME>', 'auto, cpu or cuda[:N]').default('auto').argParser(device))
    .addOption(new Option('--dtype <TYPE>', 'auto (as the checkpoint), f32 or bf16').default('auto').argParser(oneOf('auto', 'f32', 'bf16')))
    .addOption(new Option('--threads <N>', 'CPU threads').argParser(wholeNumber(1, 1024)))
    .addOption(new Option('--isa <LEVEL>', 'CPU level to run').argParser(oneOf('auto', 'baseline', 'avx2', 'avx512', 'avx512bf16', 'neon')))
    .addOption(new Option('--revision <NAME>', 'branch, tag or commit on the hub'))
    .addOption(new Option('--yes', 'download without asking'))
}

export function addModelFlags(command: Command): Command {
  return addRandomFlags(addDeviceFlags(command)
    .addOption(new Option('--fp8 [RECIPE]', 'projections in FP8: by row and token, or as the recipe says (delayed, current, block)'))
    .addOption(new Option('--fp8-lm-head', 'with --fp8: the output head too'))
    .addOption(new Option('--calibration <FILE>', 'safetensors file with static scales of activations and cache'))
    .addOption(new Option('--adapter <DIR>', 'LoRA adapter'))
    .addOption(new Option('--adapter-mode <MODE>', 'merge it into the weights (default), or apply it beside them').argParser(oneOf('merge', 'apply'))))
}

/** Flags of the key/value cache. */
export function addCacheFlags(command: Command): Command {
  return command
    .addOption(new Option('--kv-dtype <TYPE>', 'type of the cache: bf16, f32 or fp8').argParser(oneOf('bf16', 'f32', 'fp8')))
    .addOption(new Option('--paged', 'paged cache'))
    .addOption(new Option('--page-size <N>', 'tokens of a page').argParser(wholeNumber(1, 1 << 20)))
    .addOption(new Option('--graphs', 'decode by recorded steps (default)'))
    .addOption(new Option('--no-graphs', 'decode op by op'))
}

/** What the flags ask of the cache. @throws OctetError `USAGE` */
function cacheOptions(flags: ModelFlags): LoadModelOptions['kvCache'] {
  if (flags.pageSize !== undefined && flags.paged !== true) throw usage('--page-size needs --paged', 'add --paged')
  return {
    ...(flags.kvDtype === undefined ? {} : { dtype: flags.kvDtype === 'fp8' ? 'e4m3' : flags.kvDtype }),
    ...(flags.paged === true ? { isPaged: true } : {}),
    ...(flags.pageSize === undefined ? {} : { pageSize: flags.pageSize }),
  }
}

/** `--fp8`, `--fp8 RECIPE`, and `--fp8-lm-head` beside either. @throws OctetError `USAGE` */
function fp8Option({ fp8, fp8LmHead }: ModelFlags): LoadModelOptions['fp8'] {
  if (fp8 === undefined) {
    if (fp8LmHead === true) throw usage('--fp8-lm-head needs --fp8', 'add --fp8')
    return undefined
  }
  if (fp8LmHead !== true) return fp8
  return { fp8LmHead: true, ...(fp8 === true ? {} : { recipe: fp8 }) }
}

/** Loads the model that the flags name, with a progress bar for a person who looks on. */
export async function loadFromFlags(flags: ModelFlags, context: Context): Promise<LanguageModel> {
  const [fp8, kvCache] = [fp8Option(flags), cacheOptions(flags)]
  if (flags.adapterMode !== undefined && flags.adapter === undefined) throw usage('--adapter-mode needs --adapter', 'add --adapter DIR')
  const { model, randomWeights } = flags
  if (randomWeights !== undefined) {
    const { device, dtype, threads, isa, weightsSeed: seed } = flags
    return randomModel(randomWeights, { device, dtype, fp8, threads, isa, seed, kvCache, signal: context.signal })
  }
  if (model === undefined) throw usage('required option \'--model <DIR|HUB_ID>\' not specified', 'or give --random-weights CONFIG')
  const progress = createProgress(context.stderr, context.output.interactive)
  try {
    return await loadModel(model, {
      device: flags.device,
      dtype: flags.dtype,
      fp8,
      calibration: flags.calibration,
      adapter: flags.adapter,
      adapterMode: flags.adapterMode,
      threads: flags.threads,
      isa: flags.isa,
      revision: flags.revision,
      kvCache,
      signal: context.signal,
      confirmPull: askBeforePull(flags.yes === true, context),
      onProgress: ({ phase, doneBytes, totalBytes }) => progress.update(phase === 'load' ? 'loading' : 'downloading', doneBytes, totalBytes),
    })
  } finally {
    progress.end()
  }
}

/** `auto` means a GPU where there is one. On a machine with an NVIDIA driver, says why this run goes without. */
function noteFallback({ device, isa }: ModelFlags, llm: LanguageModel, { output }: Context): void {
  if (device !== 'auto' || isa !== undefined || llm.device.kind !== 'cpu' || !hasNvidiaDriver()) return
  const note = fallbackNote(describeBackends())
  if (note !== null) output.note(note)
}

/** What `auto` says when it takes the CPU beside a GPU. */
export function fallbackNote({ cuda }: BackendReport): string | null {
  return cuda.available ? null : `on the CPU, not the GPU: ${cuda.reason}; ${cuda.hint} (octet doctor tells more, --device cpu keeps quiet)`
}

/** Whether this machine has an NVIDIA driver, of its own or Windows's. */
function hasNvidiaDriver(): boolean {
  return ['/proc/driver/nvidia/version', '/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path))
}

/** Runs `work` on the model of the flags and disposes it, whatever happens. */
export async function withModel<T>(flags: ModelFlags, context: Context, work: (llm: LanguageModel) => Promise<T>): Promise<T> {
  const llm = await loadFromFlags(flags, context)
  noteFallback(flags, llm, context)
  try {
    return await work(llm)
  } finally {
    await llm.dispose()
  }
}
