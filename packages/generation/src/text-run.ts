import { OctetError, type ChatMessage, type ChatTemplateOptions, type Tokenizer } from '@octet-llm/core'
import type { CausalLM } from '@octet-llm/transformer'
import { runGeneration, whileAlive, type TokenEvent } from './generate.js'
import type { GenerateOutput } from './output.js'
import { planGeneration } from './plan.js'
import type { PromptInput, TokenIds } from './prompt.js'
import { GenerationRun, type RunControl, type RunResult } from './run.js'
import { resolveSettings, type CallOptions, type Settings } from './settings.js'
import { TokenText } from './text/token-text.js'

export interface TextRunOptions {
  readonly model: CausalLM
  readonly tokenizer: Tokenizer
  /** One text or several; the tokenizer adds its special tokens. One of prompt, messages and ids. */
  readonly prompt?: string | readonly string[]
  /** One chat or several, laid out by the tokenizer's chat template. */
  readonly messages?: readonly ChatMessage[] | readonly (readonly ChatMessage[])[]
  /** Token ids, taken as they are. */
  readonly ids?: readonly TokenIds[] | TokenIds
  /** With ids only. */
  readonly attentionMask?: PromptInput['attentionMask']
  readonly chatTemplate?: ChatTemplateOptions
  readonly options?: CallOptions
}

/**
 * A run over text: prompt → tokens → model → text. Options are checked at once; the prompt is tokenised, and the work
 * begins, when the run is first read.
 *
 * @throws OctetError `INVALID_ARGUMENT`, `NOT_SUPPORTED` naming the option
 */
export function createTextRun(request: TextRunOptions): GenerationRun {
  const { model, tokenizer, options = {} } = request
  const prompts = countPrompts(request)
  const settings = resolveSettings(model.info, options, tokenizer)
  return new GenerationRun((control) => whileAlive(model, () => produce(request, settings, control)), prompts * settings.config.numReturnSequences)
}

function isMany<T>(value: readonly T[] | readonly (readonly T[])[]): value is readonly (readonly T[])[] {
  return Array.isArray(value[0])
}

/** Prompts of the request. @throws OctetError `INVALID_ARGUMENT` unless exactly one form is given, with something in it. */
function countPrompts({ prompt, messages, ids, attentionMask }: TextRunOptions): number {
  const given = Object.entries({ prompt, messages, ids }).filter(([, value]) => value !== undefined)
  const refuse = (argument: string, expected: string, received: string): never => {
    throw new OctetError('INVALID_ARGUMENT', { op: 'generate', argument, expected, received })
  }
  if (given.length !== 1) refuse('prompt', 'one of prompt, messages and ids', given.length === 0 ? 'none' : given.map(([name]) => name).join(' and '))
  if (attentionMask !== undefined && ids === undefined) refuse('attentionMask', 'ids beside it', 'none')
  if (typeof prompt === 'string') return 1
  const value = (prompt ?? messages ?? ids)!
  if (value.length === 0) refuse(given[0]![0], 'at least one prompt', 'none')
  if (prompt !== undefined) return prompt.length
  if (messages !== undefined) return isMany(messages) ? messages.length : 1
  return typeof (value as ArrayLike<unknown>)[0] === 'number' ? 1 : value.length
}

async function tokenize({ tokenizer, prompt, messages, ids, attentionMask, chatTemplate }: TextRunOptions): Promise<PromptInput> {
  if (ids !== undefined) return { inputIds: ids, ...(attentionMask === undefined ? {} : { attentionMask }) }
  if (messages !== undefined) {
    const chats = isMany(messages) ? messages : [messages]
    const texts = await Promise.all(chats.map((chat) => tokenizer.applyChatTemplate(chat, chatTemplate)))
    // The template writes the special tokens itself.
    return ragged(await Promise.all(texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }))))
  }
  const texts = typeof prompt === 'string' ? [prompt] : prompt!
  return ragged(await Promise.all(texts.map((text) => tokenizer.encode(text))))
}

/** Rows of text have no pads: a pad id that stands in one was written there, and counts. */
function ragged(rows: readonly (readonly number[])[]): PromptInput {
  return { inputIds: rows, attentionMask: rows.map((row) => row.map(() => 1)) }
}

async function produce(request: TextRunOptions, settings: Settings, control: RunControl): Promise<RunResult> {
  const { model, tokenizer } = request
  const { signal } = settings.options
  signal?.throwIfAborted()
  const plan = planGeneration(model.info, settings, await tokenize(request))
  const text = control.streaming === 'text' ? new TokenText(tokenizer) : null
  const output = await runGeneration(model, plan, {
    ...(signal === undefined ? {} : { signal }),
    stopRequested: control.stopRequested,
    onTokens: async (events) => {
      if (control.streaming === 'tokens') control.pushTokens(events)
      if (text !== null) await pushText(text, events, control)
    },
  })
  const rest = await text?.end()
  if (rest !== undefined && rest !== '') control.pushText(rest)
  return withTexts(output, tokenizer)
}

async function pushText(text: TokenText, events: readonly TokenEvent[], control: RunControl): Promise<void> {
  for (const { token } of events) {
    const delta = await text.push(token)
    if (delta !== '') control.pushText(delta)
  }
}

async function withTexts(output: GenerateOutput, tokenizer: Tokenizer): Promise<RunResult> {
  const texts = await Promise.all(output.tokens.map((tokens) => tokenizer.decode(tokens, { skipSpecialTokens: true })))
  return { ...output, text: texts[0]!, texts, finishReason: output.finishReasons[0]! }
}
