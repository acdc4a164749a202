import { fork, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { OctetError } from '@octet-llm/core'
import type { SandboxReply, SandboxRequest, WireError } from './protocol.js'

/** The compiled entry, also when this module runs from its TypeScript source under a test runner. */
const ENTRY = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? '../../dist/tokenizer/worker.js' : './worker.js', import.meta.url))

/** All that the sandbox inherits: where its libraries are and which time zone dates in templates are in. No tokens. */
const INHERITED = ['LD_LIBRARY_PATH', 'DYLD_LIBRARY_PATH', 'SystemRoot', 'TZ']

interface Pending {
  resolve(reply: SandboxReply): void
  reject(error: unknown): void
}

/** One sandbox process. Answers one request at a time; once it has failed it is dead and a new one must be made. */
class SandboxProcess {
  readonly #child: ChildProcess
  readonly #exited: Promise<void>
  readonly #heapLimitMb: number
  #pending: Pending | null = null
  #dead = false

  constructor(heapLimitMb: number) {
    this.#heapLimitMb = heapLimitMb
    const env: NodeJS.ProcessEnv = { ELECTRON_RUN_AS_NODE: '1' }
    for (const name of INHERITED) if (process.env[name] !== undefined) env[name] = process.env[name]
    try {
      this.#child = fork(ENTRY, [String(heapLimitMb)], { env, execArgv: [], serialization: 'advanced', stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
    } catch (error) {
      throw cannotStart(error)
    }
    this.#exited = new Promise((resolve) => {
      this.#child.once('exit', () => resolve())
      this.#child.once('error', () => resolve())
    })
    this.#child.on('message', (reply: SandboxReply) => this.#receive(reply))
    this.#child.on('error', (error) => this.#fail(cannotStart(error)))
    this.#child.on('exit', (code, signal) => this.#fail(stopped(`${heapLimitMb} MB of heap`, `its end with ${signal ?? `exit code ${code}`}`)))
    this.#hold(false)
  }

  get dead(): boolean {
    return this.#dead
  }

  /** @throws OctetError what the sandbox answered, or `WORKER_TIMEOUT` when it was stopped. */
  async ask(request: SandboxRequest, deadlineMs: number): Promise<unknown> {
    let timer: NodeJS.Timeout | undefined
    const answer = new Promise<SandboxReply>((resolve, reject) => {
      this.#pending = { resolve, reject }
      timer = setTimeout(() => this.#fail(stopped(`an answer within ${deadlineMs} ms`, 'none')), deadlineMs)
      this.#hold(true)
      try {
        this.#child.send(request, (error) => {
          if (error !== null) this.#fail(stopped('a pipe to the sandbox', error.message))
        })
      } catch (error) {
        this.#pending = null
        reject(notSendable(error))
      }
    })
    try {
      const reply = await answer
      // Thrown here rather than where the message arrives, so that the stack leads back to the caller.
      if ('error' in reply) throw fromWire(reply.error)
      return 'value' in reply ? reply.value : undefined
    } finally {
      clearTimeout(timer)
      this.#hold(false)
    }
  }

  /** Ends the process whatever it does; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#dead = true
    this.#child.kill('SIGKILL')
    this.#child.ref()
    await this.#exited
  }

  #receive(reply: SandboxReply): void {
    if ('fatal' in reply) {
      const expected = reply.fatal === 'heap' ? `at most ${this.#heapLimitMb} MB of heap` : 'no crash'
      this.#fail(stopped(expected, reply.fatal === 'heap' ? 'more' : reply.reason))
      return
    }
    const pending = this.#pending
    this.#pending = null
    pending?.resolve(reply)
  }

  #fail(error: OctetError): void {
    if (!this.#dead) {
      this.#dead = true
      this.#child.kill('SIGKILL')
    }
    const pending = this.#pending
    this.#pending = null
    pending?.reject(error)
  }

  /** The user's process stays alive for an answer and for nothing else. */
  #hold(alive: boolean): void {
    const { channel } = this.#child
    if (alive) {
      this.#child.ref()
      channel?.ref?.()
    } else {
      this.#child.unref()
      channel?.unref?.()
    }
  }
}

export interface SandboxOptions {
  readonly dir: string
  readonly deadlineMs: number
  readonly heapLimitMb: number
}

/**
 * A tokenizer's sandbox over process restarts: requests run one after another, each under the deadline; after an
 * overrun the next request starts a fresh process, which loads the files again first.
 */
export class Sandbox {
  readonly #options: SandboxOptions
  #process: SandboxProcess | null = null
  #tail: Promise<void> = Promise.resolve()
  #disposed = false

  constructor(options: SandboxOptions) {
    this.#options = options
  }

  /** Starts the process and loads; the answer is the sandbox's `LoadAnswer`. */
  load(): Promise<unknown> {
    return this.#enqueue(() => this.#start())
  }

  ask(request: SandboxRequest): Promise<unknown> {
    return this.#enqueue(async () => {
      if (this.#process === null || this.#process.dead) await this.#start()
      return (this.#process as SandboxProcess | null)?.ask(request, this.#options.deadlineMs)
    })
  }

  async dispose(): Promise<void> {
    this.#disposed = true
    await this.#process?.kill()
    await this.#tail
  }

  async #start(): Promise<unknown> {
    const started = new SandboxProcess(this.#options.heapLimitMb)
    this.#process = started
    try {
      return await started.ask({ kind: 'load', dir: this.#options.dir }, this.#options.deadlineMs)
    } catch (error) {
      this.#process = null
      await started.kill()
      throw error
    }
  }

  async #enqueue(task: () => Promise<unknown>): Promise<unknown> {
    const previous = this.#tail
    let release = (): void => undefined
    this.#tail = new Promise<void>((resolve) => {
      release = resolve
    })
    await previous
    try {
      this.#checkLive()
      return await task()
    } catch (error) {
      // A call cut short by dispose() says so, rather than that its process ended.
      this.#checkLive()
      throw error
    } finally {
      release()
    }
  }

  #checkLive(): void {
    if (!this.#disposed) return
    throw new OctetError('DISPOSED', { op: 'tokenizer', expected: 'a tokenizer in use', received: 'a disposed one', hint: 'load it again' })
  }
}

function stopped(expected: string, received: string): OctetError {
  return new OctetError('WORKER_TIMEOUT', {
    op: 'tokenizer',
    argument: 'sandbox',
    expected,
    received,
    hint: 'it was stopped and the next call starts it afresh; if the files are trusted, raise deadlineMs or heapLimitMb',
  })
}

function cannotStart(cause: unknown): OctetError {
  return new OctetError('NOT_SUPPORTED', {
    op: 'loadTokenizer',
    argument: 'sandbox process',
    expected: 'leave to start a Node child process',
    received: cause instanceof Error ? cause.message : String(cause),
    hint: 'tokenizers run in a child process of their own: allow child processes (node --allow-child-process)',
    cause,
  })
}

function notSendable(cause: unknown): OctetError {
  return new OctetError('INVALID_ARGUMENT', {
    op: 'tokenizer',
    argument: 'messages or variables',
    expected: 'values that can be copied to another process',
    received: cause instanceof Error ? cause.message : String(cause),
    hint: 'leave functions and class instances out',
    cause,
  })
}

function fromWire(error: WireError): OctetError {
  return new OctetError(error.code, error)
}
