import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { OctetError, type ChatMessage, type ChatTemplateOptions, type SpecialTokens, type Tokenizer } from '@octet-llm/core'
import { bytesOf, decodeIds } from './decode.js'
import type { LoadAnswer } from './protocol.js'
import { Sandbox } from './sandbox.js'
import type { TokenTable } from './token-table.js'

export interface LoadTokenizerOptions {
  /**
   * Milliseconds that loading, and each later call, may take before the sandbox is stopped. Loading a vocabulary of
   * 256k tokens takes one to three seconds. Default 30,000.
   */
  readonly deadlineMs?: number
  /** JavaScript heap of the sandbox in MB; a vocabulary of 256k tokens needs 150 to 250. Default 512. */
  readonly heapLimitMb?: number
  /** Stops loading; it then rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

const DEFAULT_DEADLINE_MS = 30_000
const DEFAULT_HEAP_LIMIT_MB = 512
/** The longest delay a timer takes. */
const MAX_DEADLINE_MS = 2 ** 31 - 1

/**
 * Loads the tokenizer and chat template of a checkpoint folder: `tokenizer.json`, `tokenizer_config.json`,
 * `special_tokens_map.json`, `chat_template.jinja`.
 *
 * The files are untrusted: they are parsed, and their regular expressions and templates run, in a child process under a
 * deadline and a heap limit. It ends with `dispose()`, with the user's process, or with the worker thread that made it,
 * and does not keep any of them alive. Decoding needs no round trip: the bytes of all tokens are in memory here.
 *
 * @throws OctetError `FILE_NOT_FOUND` without a folder or tokenizer.json; `INVALID_TOKENIZER` for files that do not parse
 *   or use a part that Octet does not run; `WORKER_TIMEOUT` past the deadline or heap limit; `NOT_SUPPORTED` where child
 *   processes are forbidden; `INVALID_ARGUMENT` for options out of range; the signal's reason when aborted.
 */
export async function loadTokenizer(dir: string, options: LoadTokenizerOptions = {}): Promise<Tokenizer> {
  const { signal } = options
  const deadlineMs = checkOption('deadlineMs', options.deadlineMs ?? DEFAULT_DEADLINE_MS, 1, MAX_DEADLINE_MS)
  const heapLimitMb = checkOption('heapLimitMb', options.heapLimitMb ?? DEFAULT_HEAP_LIMIT_MB, 32, 65_536)
  signal?.throwIfAborted()
  const path = resolve(dir)
  await checkFolder(path)

  const sandbox = new Sandbox({ dir: path, deadlineMs, heapLimitMb })
  const abort = (): void => void sandbox.dispose()
  signal?.addEventListener('abort', abort, { once: true })
  try {
    const answer = (await sandbox.load()) as LoadAnswer
    signal?.throwIfAborted()
    return new SandboxedTokenizer(sandbox, answer)
  } catch (error) {
    await sandbox.dispose()
    signal?.throwIfAborted()
    throw error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

class SandboxedTokenizer implements Tokenizer {
  readonly special: SpecialTokens
  readonly hasChatTemplate: boolean
  /** One more than the largest id. */
  readonly vocabSize: number
  readonly #sandbox: Sandbox
  readonly #table: TokenTable
  #disposed = false

  constructor(sandbox: Sandbox, answer: LoadAnswer) {
    this.#sandbox = sandbox
    this.#table = answer.table
    this.special = answer.special
    this.hasChatTemplate = answer.hasChatTemplate
    this.vocabSize = answer.table.flags.length
  }

  async encode(text: string, options: { addSpecialTokens?: boolean } = {}): Promise<number[]> {
    if (typeof text !== 'string') throw wrongArgument('encode', 'text', 'a string', text)
    const ids = await this.#sandbox.ask({ kind: 'encode', text, addSpecialTokens: options.addSpecialTokens ?? true })
    return Array.from(ids as Uint32Array)
  }

  async decode(ids: readonly number[], options: { skipSpecialTokens?: boolean } = {}): Promise<string> {
    this.#checkLive('decode')
    return decodeIds(this.#table, ids, options.skipSpecialTokens ?? false)
  }

  async tokenBytes(ids: readonly number[]): Promise<Uint8Array[]> {
    this.#checkLive('tokenBytes')
    return ids.map((id) => bytesOf(this.#table, id))
  }

  async applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Promise<string> {
    if (!Array.isArray(messages)) throw wrongArgument('applyChatTemplate', 'messages', 'an array of {role, content}', messages)
    const variables = { ...options.variables, messages, add_generation_prompt: options.addGenerationPrompt ?? true }
    return (await this.#sandbox.ask({ kind: 'template', variables })) as string
  }

  async dispose(): Promise<void> {
    this.#disposed = true
    await this.#sandbox.dispose()
  }

  #checkLive(op: string): void {
    if (this.#disposed) throw new OctetError('DISPOSED', { op, expected: 'a tokenizer in use', received: 'a disposed one', hint: 'load it again' })
  }
}

function wrongArgument(op: string, argument: string, expected: string, received: unknown): OctetError {
  return new OctetError('INVALID_ARGUMENT', { op, argument, expected, received: received === null ? 'null' : typeof received })
}

function checkOption(argument: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value
  throw new OctetError('INVALID_ARGUMENT', { op: 'loadTokenizer', argument, expected: `a whole number in ${min}…${max}`, received: String(value) })
}

async function checkFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => null)
  if (found?.isDirectory() === true) return
  throw new OctetError('FILE_NOT_FOUND', {
    op: 'loadTokenizer',
    argument: path,
    expected: 'a folder with tokenizer.json',
    received: found === null ? 'nothing' : 'a file',
    hint: 'pass the checkpoint folder',
  })
}
