import { type Command, Option } from 'commander'
import type { RunResult } from '@octet-llm/generation'
import type { GenerateOptions, LanguageModel } from '../../language-model.js'
import type { Context } from '../context.js'
import { addGenerationFlags, readGenerationFlags } from '../generation-flags.js'
import { addCacheFlags, addModelFlags, withModel, type ModelFlags } from '../model-flags.js'
import { addPromptFlags, readPrompt, type PromptFlags } from '../prompts.js'
import { wholeNumber } from '../values.js'

interface GenerateFlags extends ModelFlags, PromptFlags {
  readonly ignoreEos?: boolean
  readonly seed?: number
}

export function addGenerate(program: Command, context: Context): void {
  const command = program.command('generate').description('write on from a prompt')
  addGenerationFlags(addCacheFlags(addPromptFlags(addModelFlags(command))))
    .addOption(new Option('--seed <N>', 'seed of the random draws').argParser(wholeNumber(0)))
    .addOption(new Option('--ignore-eos', 'write on after the token that ends a text'))
    .action(async (flags: GenerateFlags) => {
      const { prompt, count } = await readPrompt(flags, context)
      const options: GenerateOptions = { ...readGenerationFlags({ ...flags }), ignoreEos: flags.ignoreEos, seed: flags.seed, graphs: flags.graphs, signal: context.signal }
      await withModel(flags, context, async (llm) => {
        const run = llm.generate(prompt, options)
        const single = count === 1 && (options.numReturnSequences ?? llm.generationConfig.numReturnSequences ?? 1) === 1
        if (context.json) return context.output.json(report(llm, await run.result()))
        if (single && llm.tokenizer !== null) {
          for await (const delta of run.textStream) await context.output.write(delta)
          await context.output.write('\n')
        } else {
          for (const line of lines(llm, await run.result())) await context.output.write(`${line}\n`)
        }
        context.output.note(summary(llm, await run.result()))
      })
    })
}

/** One result a line; token ids where the checkpoint has no tokenizer. */
function lines(llm: LanguageModel, result: RunResult): string[] {
  return llm.tokenizer === null ? result.tokens.map((ids) => ids.join(' ')) : result.texts
}

function summary(llm: LanguageModel, { usage, timings }: RunResult): string {
  const speed = timings.tokens_per_s > 0 ? `, ${timings.tokens_per_s.toFixed(1)} tokens/s` : ''
  return `${usage.completionTokens} tokens${speed} on ${llm.device.name} (${llm.device.isa}, ${llm.device.threads} threads)`
}

/** The object that `--json` prints. */
function report(llm: LanguageModel, result: RunResult): object {
  return {
    sequences: result.sequences,
    texts: llm.tokenizer === null ? null : result.texts,
    ...(result.scores === undefined ? {} : { scores: result.scores }),
    finishReasons: result.finishReasons,
    usage: result.usage,
    seed: result.seed,
    timings: { load_s: llm.loadSeconds, ...result.timings },
    device: describeDevice(llm),
    kernels: llm.device.kernels(),
  }
}

/** The device of a model as `--json` shows it. */
export function describeDevice({ device }: LanguageModel): object {
  return { name: device.name, isa: device.isa, threads: device.threads }
}
