/** A hub on 127.0.0.1 that misbehaves as told. Shared by this folder's tests; not shipped. */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface FakeFile {
  readonly content: Buffer
  readonly lfs: boolean
  /** What is served instead of `content`. */
  served?: Buffer
  /** Connections are cut after so many bytes of the body, one entry a request. */
  cuts?: number[]
  /** Answers of this status come first, one entry a request. */
  statuses?: number[]
  /** Ranges are ignored (200) or answered with a wrong one (206). */
  ranges?: 'ignored' | 'wrong' | 'refused'
  /** The body stops without an end, one entry a request. */
  stalls?: number[]
  /** The body comes in so many pieces, 100 ms apart. */
  pieces?: number
  /** Redirects to this origin. */
  redirect?: string
}

export interface FakeRepository {
  readonly commit: string
  readonly files: Map<string, FakeFile>
}

export interface Seen {
  readonly path: string
  readonly range: string | undefined
  readonly authorization: string | undefined
}

export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
export const gitSha1 = (bytes: Buffer): string => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')

/** Bytes that no two files share. */
export function noise(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length)
  let state = seed + 1
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    bytes[i] = state >>> 24
  }
  return bytes
}

export class FakeHub {
  readonly seen: Seen[] = []
  readonly repositories = new Map<string, FakeRepository>()
  /** Answers the listing instead of the repository's own. */
  listing: ((path: string) => { status: number; headers?: Record<string, string>; body: string } | null) | null = null
  onRequest: ((path: string) => void) | null = null
  readonly #server: Server

  private constructor() {
    this.#server = createServer((request, response) => this.#answer(request, response))
  }

  static async start(): Promise<FakeHub> {
    const hub = new FakeHub()
    await new Promise<void>((resolve) => hub.#server.listen(0, '127.0.0.1', resolve))
    return hub
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** Adds a repository of text (git) and Buffer (LFS) files. */
  add(id: string, files: Record<string, string | Buffer>, commit = 'c'.repeat(40)): FakeRepository {
    const entries = Object.entries(files).map(([name, content]) => [name, { content: Buffer.from(content), lfs: typeof content !== 'string' }] as const)
    const repository = { commit, files: new Map<string, FakeFile>(entries) }
    this.repositories.set(id, repository)
    return repository
  }

  /** GETs of a file so far. */
  gets(name: string): Seen[] {
    return this.seen.filter(({ path }) => path.endsWith(`/${name}`))
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(request.url ?? '')
    this.seen.push({ path, range: request.headers.range, authorization: request.headers.authorization })
    this.onRequest?.(path)
    const listed = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)\?blobs=true$/.exec(path)
    if (listed !== null) return this.#list(listed[1] as string, path, response)
    const resolved = /^\/([^/]+\/[^/]+)\/resolve\/([0-9a-f]{40})\/(.+)$/.exec(path)
    const file = resolved === null ? undefined : this.repositories.get(resolved[1] as string)?.files.get(resolved[3] as string)
    if (file === undefined) return void response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
    this.#serve(file, request, response)
  }

  #list(id: string, path: string, response: ServerResponse): void {
    const special = this.listing?.(path) ?? null
    if (special !== null) return void response.writeHead(special.status, special.headers).end(special.body)
    const repository = this.repositories.get(id)
    if (repository === undefined) return void response.writeHead(401, { 'x-error-code': 'RepoNotFound', 'x-error-message': 'Repository not found' }).end('{}')
    const siblings = [...repository.files].map(([rfilename, { content, lfs }]) => ({
      rfilename,
      size: content.length,
      blobId: gitSha1(lfs ? Buffer.from('pointer') : content),
      ...(lfs ? { lfs: { sha256: sha256(content), size: content.length, pointerSize: 135 } } : {}),
    }))
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ id, sha: repository.commit, siblings }))
  }

  #serve(file: FakeFile, request: IncomingMessage, response: ServerResponse): void {
    const status = file.statuses?.shift()
    if (status !== undefined) return void response.writeHead(status, { 'retry-after': '0' }).end()
    if (file.redirect !== undefined) return void response.writeHead(302, { location: file.redirect + (request.url ?? '') }).end()
    const all = file.served ?? file.content
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    const ranged = from > 0 && file.ranges !== 'ignored'
    if (ranged && file.ranges === 'refused') return void response.writeHead(416).end()
    const body = ranged ? all.subarray(from) : all
    const start = file.ranges === 'wrong' ? from + 1 : from
    response.writeHead(ranged ? 206 : 200, {
      'content-length': body.length,
      ...(ranged ? { 'content-range': `bytes ${start}-${all.length - 1}/${all.length}` } : {}),
    })
    const cut = file.cuts?.shift()
    const stall = file.stalls?.shift()
    if (cut !== undefined) {
      // A pause, since fetch drops what its reader has not taken when the connection ends.
      response.write(body.subarray(0, cut), () => setTimeout(() => response.socket?.end(), 150))
    } else if (file.pieces !== undefined) void trickle(response, body, file.pieces)
    else if (stall !== undefined) response.write(body.subarray(0, stall))
    else response.end(body)
  }
}

async function trickle(response: ServerResponse, body: Buffer, pieces: number): Promise<void> {
  const length = Math.ceil(body.length / pieces)
  for (let at = 0; at < body.length; at += length) {
    response.write(body.subarray(at, at + length))
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  response.end()
}
