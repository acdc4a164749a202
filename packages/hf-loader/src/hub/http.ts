import { setTimeout as sleep } from 'node:timers/promises'
import { OctetError } from '@octet-llm/core'
import type { HubEnvironment } from './environment.js'

const FIRST_DELAY_MS = 250
const MAX_DELAY_MS = 10_000
const MAX_RETRY_AFTER_MS = 60_000

export interface HubClient {
  readonly environment: HubEnvironment
  /** Repository, for messages. */
  readonly id: string
  /** How often in a row a request may fail. */
  readonly retries: number
  /** A connection that brings nothing for this long is broken. */
  readonly stallMs: number
  readonly signal: AbortSignal | undefined
}

/** A fault that another attempt may mend. */
export class Retryable extends Error {
  readonly afterMs: number | undefined

  constructor(message: string, options: { cause?: unknown; afterMs?: number | undefined } = {}) {
    super(message, { cause: options.cause })
    this.afterMs = options.afterMs
  }
}

/**
 * Runs `attempt` until it succeeds, fails for good, or has failed more than `retries` times in a row without progress,
 * with growing pauses between.
 *
 * @param progress Compared between attempts: one that moved on is no failure.
 * @throws OctetError `HUB_FAILED` with the last reason; the signal's reason.
 */
export async function withRetries<T>(client: HubClient, what: string, attempt: () => Promise<T>, progress: () => number = () => 0): Promise<T> {
  let failures = 0
  for (;;) {
    client.signal?.throwIfAborted()
    const before = progress()
    try {
      return await attempt()
    } catch (error) {
      client.signal?.throwIfAborted()
      if (!(error instanceof Retryable)) throw error
      failures = progress() > before ? 0 : failures + 1
      if (failures > client.retries) throw unreachable(client, what, error)
      const delay = error.afterMs ?? Math.min(FIRST_DELAY_MS * 2 ** Math.max(0, failures - 1), MAX_DELAY_MS)
      await sleep(delay, undefined, { signal: client.signal }).catch(() => client.signal?.throwIfAborted())
    }
  }
}

/**
 * A GET on the hub. The token goes to the hub's own address only: fetch drops it where a redirect leads elsewhere.
 *
 * @throws Retryable when no connection stands or the hub is busy; OctetError `HUB_FAILED` for what stays wrong.
 */
export async function get(client: HubClient, path: string, headers: Record<string, string>, stall: StallTimer): Promise<Response> {
  const { endpoint, token } = client.environment
  let response: Response
  try {
    response = await stall.until(fetch(endpoint + path, {
      headers: {
        'user-agent': `octet; node/${process.versions.node}`,
        // A compressed body would have another length than the file.
        'accept-encoding': 'identity',
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...headers,
      },
      signal: stall.signal,
    }))
  } catch (error) {
    client.signal?.throwIfAborted()
    throw new Retryable(reasonOf(error), { cause: error })
  }
  if (response.ok || response.status === 416) return response
  void response.body?.cancel().catch(() => undefined)
  throw refused(client, response)
}

/**
 * Aborts a request that stands still, or whose caller has had enough. Waiting ends by `until` and not by fetch alone: a
 * request that fetch has lost (its signal holds it weakly) would never settle.
 */
export class StallTimer {
  readonly #controller = new AbortController()
  readonly #aborted: Promise<never>
  readonly #outer: AbortSignal | undefined
  readonly #stallMs: number
  #timer: NodeJS.Timeout | undefined

  constructor({ signal, stallMs }: HubClient) {
    this.#stallMs = stallMs
    this.#outer = signal
    this.#aborted = new Promise((_, reject) => this.signal.addEventListener('abort', () => reject(this.signal.reason), { once: true }))
    this.#aborted.catch(() => undefined)
    if (signal?.aborted === true) this.#forward()
    else signal?.addEventListener('abort', this.#forward)
    this.touch()
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** `work`, unless the request is aborted before. */
  until<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#aborted])
  }

  /** Something came. */
  touch(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#controller.abort(new Error(`nothing was received for ${this.#stallMs} ms`)), this.#stallMs)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#outer?.removeEventListener('abort', this.#forward)
  }

  readonly #forward = (): void => this.#controller.abort(this.#outer?.reason)
}

/** The whole body of a small answer as JSON. */
export async function getJson(client: HubClient, path: string, what: string, maxBytes: number): Promise<unknown> {
  return withRetries(client, what, async () => {
    const stall = new StallTimer(client)
    try {
      const response = await get(client, path, { accept: 'application/json' }, stall)
      const chunks: Uint8Array[] = []
      let size = 0
      for await (const chunk of bodyOf(client, response, stall)) {
        size += chunk.length
        if (size > maxBytes) throw hubFailed(client, `at most ${maxBytes} bytes for ${what}`, 'more', 'check HF_ENDPOINT')
        chunks.push(chunk)
      }
      return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown
    } catch (error) {
      if (error instanceof SyntaxError) throw hubFailed(client, `JSON for ${what}`, error.message, 'check HF_ENDPOINT', error)
      throw error
    } finally {
      stall.stop()
    }
  })
}

/** The chunks of a body; a connection that breaks is `Retryable`. */
export async function* bodyOf(client: HubClient, response: Response, stall: StallTimer): AsyncGenerator<Uint8Array> {
  if (response.body === null) return
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  try {
    for (;;) {
      const { done, value } = await stall.until(reader.read()).catch((error: unknown) => {
        client.signal?.throwIfAborted()
        throw new Retryable(reasonOf(error), { cause: error })
      })
      if (done) return
      stall.touch()
      yield value
    }
  } finally {
    void reader.cancel().catch(() => undefined)
  }
}

function refused(client: HubClient, response: Response): Error {
  const { status } = response
  const said = response.headers.get('x-error-message') ?? ''
  const code = response.headers.get('x-error-code') ?? ''
  const received = `HTTP ${status}${said === '' ? '' : ` (${said.slice(0, 200)})`}`
  if (status === 408 || status === 429 || status >= 500) return new Retryable(received, { afterMs: retryAfter(response) })
  if (code === 'GatedRepo' || status === 403) {
    return hubFailed(client, 'leave to read the repository', received, `accept its terms at ${client.environment.endpoint}/${client.id} and set HF_TOKEN to a token that may read it`)
  }
  if (code === 'RevisionNotFound') return hubFailed(client, 'that revision', received, 'check the name of the branch, tag or commit')
  if (code === 'EntryNotFound') return hubFailed(client, 'that file', received, 'pull again: the repository has changed')
  // The hub answers 401 for a repository that is not there, so that private ones stay unknown.
  if (status === 401 || status === 404) {
    const hint = client.environment.token === null ? 'check the name, or set HF_TOKEN if it is private or gated' : 'check the name, and that HF_TOKEN may read it'
    return hubFailed(client, 'a model repository of that name', received, hint)
  }
  return hubFailed(client, 'HTTP 200', received, 'check HF_ENDPOINT')
}

function retryAfter(response: Response): number | undefined {
  const header = response.headers.get('retry-after')
  if (header === null) return undefined
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Number.isFinite(ms) ? Math.max(0, Math.min(ms, MAX_RETRY_AFTER_MS)) : undefined
}

export function hubFailed(client: HubClient, expected: string, received: string, hint: string, cause?: unknown): OctetError {
  return new OctetError('HUB_FAILED', { op: 'pull', argument: client.id, expected, received, hint, ...(cause === undefined ? {} : { cause }) })
}

function unreachable(client: HubClient, what: string, error: Retryable): OctetError {
  return hubFailed(client, `an answer from ${client.environment.endpoint} for ${what}`, error.message, 'check the connection and HF_ENDPOINT, then pull again: what is there is kept', error)
}

/** undici says `fetch failed` and hides the reason one or more causes down. */
function reasonOf(error: unknown): string {
  let at: unknown = error
  while (at instanceof Error && at.cause instanceof Error) at = at.cause
  if (!(at instanceof Error)) return String(at)
  const code = (at as NodeJS.ErrnoException).code
  return at.message !== '' ? at.message : (code ?? at.name)
}
