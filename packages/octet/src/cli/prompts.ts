import { text as readStream } from 'node:stream/consumers'
import { type Command, Option } from 'commander'
import type { Prompt } from '../language-model.js'
import type { Context } from './context.js'
import { usage } from './failure.js'
import { readTextFile } from '../text-file.js'
import { MAX_INPUT_IDS_BYTES, readInputIds } from './input-ids.js'

/** Flags that say what to write on from. */
export interface PromptFlags {
  readonly prompt?: readonly string[]
  readonly promptFile?: readonly string[]
  readonly inputIds?: string
}

const collect = (text: string, before: readonly string[] | undefined): string[] => [...(before ?? []), text]

export function addPromptFlags(command: Command): Command {
  return command
    .addOption(new Option('--prompt <TEXT>', 'text to write on from; repeatable; - reads it from stdin').argParser(collect))
    .addOption(new Option('--prompt-file <FILE>', 'file with the text; repeatable').argParser(collect))
    .addOption(new Option('--input-ids <FILE>', 'token ids: {"input_ids": [[…]], "attention_mask": [[…]]?}'))
}

/** The prompts as texts or token ids. @throws OctetError `USAGE` unless one form is given; `FILE_NOT_FOUND`, `INVALID_JSON` */
export async function readPrompt(flags: PromptFlags, { stdin }: Context): Promise<{ prompt: Prompt; count: number }> {
  const texts = [...(flags.prompt ?? []), ...(flags.promptFile ?? [])]
  if (flags.inputIds !== undefined) {
    if (texts.length > 0) throw usage('--input-ids and --prompt exclude each other', 'give one of them')
    const ids = await readInputIds(flags.inputIds)
    return { prompt: ids, count: ids.inputIds.length }
  }
  if (texts.length === 0) throw usage('a prompt is missing', 'give --prompt TEXT, --prompt-file FILE or --input-ids FILE')
  if ((flags.prompt ?? []).filter((text) => text === '-').length > 1) throw usage('--prompt - can be given once', 'stdin holds one text')
  const prompts = await Promise.all([
    ...(flags.prompt ?? []).map((text) => (text === '-' ? readStream(stdin) : Promise.resolve(text))),
    ...(flags.promptFile ?? []).map((path) => readTextFile(path, MAX_INPUT_IDS_BYTES, '--prompt-file')),
  ])
  return { prompt: prompts, count: prompts.length }
}
