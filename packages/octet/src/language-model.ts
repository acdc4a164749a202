import { OctetError, type AsyncDisposable, type ChatMessage, type ChatTemplateOptions, type Tokenizer } from '@octet-llm/core'
import { createTextRun, type CallOptions, type GenerationOptions, type GenerationRun, type PromptInput } from '@octet-llm/generation'
import type { Device, Tensor } from '@octet-llm/kernels'
import type { CausalLM, CausalLMInfo, ForwardInput, ForwardOutput } from '@octet-llm/transformer'
import { NoTokenizer } from './no-tokenizer.js'

/**
 * What `generate` writes on from: one text or several, one chat (a list of messages) or several, or token ids, which are
 * taken as they are. Rows of ids may differ in length; `attentionMask` marks pads with 0.
 */
export type Prompt =
  | string
  | readonly string[]
  | readonly ChatMessage[]
  | readonly (readonly ChatMessage[])[]
  | PromptInput

export interface GenerateOptions extends CallOptions {
  /** Chats only: whether the template opens the assistant's turn (default true), and variables it may read. */
  readonly chatTemplate?: ChatTemplateOptions
}

/** Parts of a {@link LanguageModel}; it owns those that it is told to dispose. */
export interface LanguageModelParts {
  readonly model: CausalLM
  /** Null for a checkpoint without one: then only token ids go in. */
  readonly tokenizer: Tokenizer | null
  /** The checkpoint's generation_config.json. */
  readonly generationConfig?: GenerationOptions
  /** Options of the cache for every run that names none. */
  readonly kvCache?: CallOptions['kvCache']
  /** Where the checkpoint came from, for messages. */
  readonly folder: string
  /** A device that was opened for this model and ends with it. */
  readonly ownedDevice?: Device
  readonly loadSeconds: number
}

/** A checkpoint that is ready to write: model, tokenizer and generation defaults in one. Made by `loadModel`. */
export class LanguageModel implements AsyncDisposable {
  readonly model: CausalLM
  readonly tokenizer: Tokenizer | null
  /** The checkpoint's own defaults; options of a call come before them. */
  readonly generationConfig: GenerationOptions
  /** Folder of the checkpoint. */
  readonly folder: string
  /** Seconds from the call of `loadModel` until the weights were on the device. */
  readonly loadSeconds: number
  readonly #kvCache: CallOptions['kvCache']
  readonly #ownedDevice: Device | undefined
  readonly #textSide: Tokenizer
  #disposed = false
  #disposal: Promise<void> | undefined

  constructor(parts: LanguageModelParts) {
    this.model = parts.model
    this.tokenizer = parts.tokenizer
    this.generationConfig = parts.generationConfig ?? {}
    this.folder = parts.folder
    this.loadSeconds = parts.loadSeconds
    this.#kvCache = parts.kvCache
    this.#ownedDevice = parts.ownedDevice
    this.#textSide = parts.tokenizer ?? new NoTokenizer(parts.folder)
  }

  get info(): CausalLMInfo {
    return this.model.info
  }

  get device(): Device {
    return this.model.device
  }

  /**
   * A run that writes on from a prompt. Nothing happens until it is read: `for await (… of run.textStream)`,
   * `run.tokenStream`, or `await run.result()`. `dispose()` ends it with `DISPOSED`.
   * @throws OctetError `INVALID_ARGUMENT` or `NOT_SUPPORTED` naming the option; `DISPOSED`. Reading may throw
   *   `CONTEXT_TOO_LONG`, `INVALID_TEMPLATE`, `FILE_NOT_FOUND` (no tokenizer), or the signal's reason.
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): GenerationRun {
    this.#checkAlive('generate')
    const { chatTemplate, ...call } = options
    return createTextRun({
      model: this.model,
      tokenizer: this.#textSide,
      ...promptFields(prompt),
      chatTemplate,
      options: { modelGenerationConfig: this.generationConfig, kvCache: this.#kvCache, ...call },
    })
  }

  /**
   * Logits f32 [B, T, V] of whole sequences, without a cache; enqueued, and owned by the caller. With
   * `hiddenStates: true` also the numLayers + 1 hidden states [B, T, hiddenSize].
   * @throws OctetError `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`
   */
  forward(input: ForwardInput & { readonly hiddenStates: true }): ForwardOutput
  forward(input: ForwardInput & { readonly hiddenStates?: false }): Tensor
  forward(input: ForwardInput & { readonly hiddenStates?: boolean }): Tensor | ForwardOutput {
    this.#checkAlive('forward')
    return input.hiddenStates === true ? this.model.forward({ ...input, hiddenStates: true }) : this.model.forward({ ...input, hiddenStates: false })
  }

  /**
   * Ends the runs that are under way, with `DISPOSED`, and waits for them; then frees the weights, the tokenizer's process and
   * the device that `loadModel` opened. Idempotent; never from within a callback of a run that waits for it.
   * @throws OctetError `TENSOR_IN_GRAPH` while a graph of the caller's own holds weights: a call after its end frees them
   */
  dispose(): Promise<void> {
    this.#disposed = true
    this.#disposal ??= this.#release().catch((error: unknown) => {
      this.#disposal = undefined
      throw error
    })
    return this.#disposal
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  async #release(): Promise<void> {
    try {
      await this.model.dispose()
    } finally {
      try {
        await this.tokenizer?.dispose()
      } finally {
        await this.#ownedDevice?.dispose()
      }
    }
  }

  #checkAlive(op: string): void {
    if (!this.#disposed) return
    throw new OctetError('DISPOSED', { op, argument: 'model', expected: 'a loaded model', received: 'a disposed one', hint: 'load it again' })
  }
}

function isMessage(value: unknown): value is ChatMessage {
  return typeof value === 'object' && value !== null && 'role' in value && 'content' in value
}

/** Which of the forms a prompt has, as createTextRun takes them. */
function promptFields(prompt: Prompt): Pick<Parameters<typeof createTextRun>[0], 'prompt' | 'messages' | 'ids' | 'attentionMask'> {
  if (typeof prompt === 'string') return { prompt }
  if (Array.isArray(prompt)) {
    const list = prompt as readonly unknown[]
    if (list.length > 0 && list.every((item) => typeof item === 'string')) return { prompt: list as readonly string[] }
    if (list.length > 0 && list.every(isMessage)) return { messages: list }
    if (list.length > 0 && list.every((chat) => Array.isArray(chat) && chat.length > 0 && chat.every(isMessage))) return { messages: list as readonly (readonly ChatMessage[])[] }
  } else if (typeof prompt === 'object' && prompt !== null && 'inputIds' in prompt) {
    return { ids: prompt.inputIds, attentionMask: prompt.attentionMask }
  }
  throw new OctetError('INVALID_ARGUMENT', {
    op: 'generate',
    argument: 'prompt',
    expected: 'a text, a list of texts, a list of messages {role, content}, or { inputIds }',
    received: Array.isArray(prompt) ? `a list of ${prompt.length === 0 ? 'nothing' : typeof prompt[0]}` : prompt === null ? 'null' : typeof prompt,
  })
}
