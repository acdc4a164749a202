import { createInterface, type Interface } from 'node:readline'
import { type Command, Option } from 'commander'
import { OctetError, type ChatMessage } from '@octet-llm/core'
import type { GenerateOptions, LanguageModel } from '../../language-model.js'
import type { Context } from '../context.js'
import { addGenerationFlags, readGenerationFlags } from '../generation-flags.js'
import { addCacheFlags, addModelFlags, withModel, type ModelFlags } from '../model-flags.js'
import { wholeNumber } from '../values.js'

interface ChatFlags extends ModelFlags {
  readonly system?: string
  readonly seed?: number
}

/** New tokens of an answer where neither a flag nor the checkpoint says how many. */
const ANSWER_TOKENS = 512

export function addChat(program: Command, context: Context): void {
  const command = program.command('chat').description('talk to a model; a line of stdin is a turn')
  addGenerationFlags(addCacheFlags(addModelFlags(command)))
    .addOption(new Option('--system <TEXT>', 'system message'))
    .addOption(new Option('--seed <N>', 'seed of the random draws').argParser(wholeNumber(0)))
    .action(async (flags: ChatFlags) => {
      await withModel(flags, context, async (llm) => {
        if (llm.tokenizer?.hasChatTemplate !== true) {
          throw new OctetError('INVALID_TEMPLATE', { op: 'chat', argument: llm.folder, expected: 'a chat template', received: 'none', hint: 'use octet generate, or a checkpoint made for chat' })
        }
        await converse(llm, flags, context)
      })
    })
}

async function converse(llm: LanguageModel, flags: ChatFlags, context: Context): Promise<void> {
  const { stdin, stderr, output, signal } = context
  const person = stdin.isTTY === true && output.interactive
  const messages: ChatMessage[] = flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]
  const lengths = { maxNewTokens: llm.generationConfig.maxNewTokens ?? ANSWER_TOKENS }
  const options: GenerateOptions = { ...lengths, ...readGenerationFlags({ ...flags }), seed: flags.seed, graphs: flags.graphs, signal }
  const lines = createInterface({ input: stdin, output: person ? stderr : undefined, prompt: '> ', terminal: person })
  // readline takes Ctrl-C of a terminal for itself.
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'))
  signal.addEventListener('abort', () => lines.close(), { once: true })
  if (person) output.note(`${llm.info.modelType} on ${llm.device.name}; an empty line or Ctrl-D ends`)
  for await (const line of turns(lines, person)) {
    if (person && line.trim() === '') break
    messages.push({ role: 'user', content: line })
    messages.push({ role: 'assistant', content: await answer(llm, messages, options, context) })
  }
  lines.close()
  signal.throwIfAborted()
}

/** Lines as they come, with a prompt before each for a person. */
async function* turns(lines: Interface, person: boolean): AsyncGenerator<string> {
  if (person) lines.prompt()
  for await (const line of lines) {
    yield line
    if (person) lines.prompt()
  }
}

async function answer(llm: LanguageModel, messages: readonly ChatMessage[], options: GenerateOptions, { json, output }: Context): Promise<string> {
  const run = llm.generate([...messages], options)
  if (!json) {
    for await (const delta of run.textStream) await output.write(delta)
    await output.write('\n')
  }
  const { text, usage, finishReason } = await run.result()
  if (json) await output.json({ role: 'assistant', content: text, finishReason, usage })
  return text
}
