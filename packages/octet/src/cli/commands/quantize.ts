import { type Command, Option } from 'commander'
import { parseShardSize } from '@octet-llm/hf-loader'
import { quantizeCheckpoint, type QuantizedFolder } from '../../quantize/quantize-checkpoint.js'
import { askBeforePull } from '../ask.js'
import type { Context } from '../context.js'
import { usage } from '../failure.js'
import { addDeviceFlags, type DeviceFlags } from '../model-flags.js'
import { createProgress } from '../progress.js'
import { formatBytes } from '../table.js'
import { ROUNDINGS, type Rounding } from '../../quantize/rounding.js'
import { checked, oneOf } from '../values.js'

interface QuantizeFlags extends DeviceFlags {
  readonly output: string
  readonly recipe?: string
  readonly calibrate?: string
  readonly calibration?: string
  readonly rounding?: Rounding
  readonly fp8LmHead?: boolean
  readonly adapter?: string
  readonly maxShardSize?: string
}

export function addQuantize(program: Command, context: Context): void {
  addDeviceFlags(program.command('quantize').description('write a checkpoint in FP8 that other engines read too'))
    .requiredOption('--output <DIR>', 'folder to write: absent or empty')
    .addOption(new Option('--recipe <RECIPE>', 'delayed, current or block (default: by row and token)'))
    .addOption(new Option('--calibrate <FILE>', 'text (.txt), or texts, chats or token ids by line (.jsonl), to take static scales from'))
    .addOption(new Option('--calibration <FILE>', 'safetensors file with scales of an earlier calibration'))
    .addOption(new Option('--rounding <RULE>', 'compensated: weights by what --calibrate saw, so that their errors cancel; or nearest (default: compensated with --calibrate on the CPU)').argParser(oneOf(...ROUNDINGS)))
    .addOption(new Option('--fp8-lm-head', 'the output head too'))
    .addOption(new Option('--adapter <DIR>', 'LoRA adapter to merge into the weights first'))
    .addOption(new Option('--max-shard-size <SIZE>', 'most bytes of a weight file: 5GB, 500MB').argParser(checked(parseShardSize)))
    .action(async (flags: QuantizeFlags) => {
      if (flags.calibrate !== undefined && flags.calibration !== undefined) throw usage('--calibrate and --calibration exclude each other', 'give one of them')
      if (flags.rounding === 'compensated' && flags.calibrate === undefined) throw usage('--rounding compensated needs a text to calibrate on', 'add --calibrate FILE')
      const start = performance.now()
      const result = await quantize(flags, context)
      if (context.json) await context.output.json({ ...result, timings: { total_s: (performance.now() - start) / 1000 } })
      else {
        context.output.note(summary(result))
        await context.output.write(`${result.output}\n`)
      }
    })
}

async function quantize(flags: QuantizeFlags, context: Context): Promise<QuantizedFolder> {
  const progress = createProgress(context.stderr, context.output.interactive)
  const titles = { download: 'downloading', load: 'loading', calibrate: 'calibrating', save: 'writing' }
  try {
    return await quantizeCheckpoint(flags.model, flags.output, {
      device: flags.device,
      dtype: flags.dtype,
      threads: flags.threads,
      isa: flags.isa,
      revision: flags.revision,
      adapter: flags.adapter,
      recipe: flags.recipe,
      fp8LmHead: flags.fp8LmHead,
      calibrate: flags.calibrate,
      calibration: flags.calibration,
      rounding: flags.rounding,
      maxShardSize: flags.maxShardSize,
      signal: context.signal,
      confirmPull: askBeforePull(flags.yes === true, context),
      onProgress: ({ phase, done, total }) => progress.update(titles[phase], done, total, phase === 'calibrate' ? (tokens) => `${tokens} tokens` : formatBytes),
    })
  } finally {
    progress.end()
  }
}

function summary({ files, bytes, calibrated, rounding }: QuantizedFolder): string {
  const share = (bytes.quantized / bytes.quantizedAsBf16).toFixed(3)
  const scales = calibrated === null ? '' : `; static scales from ${calibrated.tokens} tokens in ${calibrated.rows} rows, weights ${rounding === 'kept' ? 'as they were' : rounding === 'nearest' ? 'rounded to nearest' : 'rounded by the same inputs'}`
  return `${files.length} files: ${formatBytes(bytes.quantized)} in FP8 (${share} of bf16), ${formatBytes(bytes.other)} unquantized${scales}`
}
