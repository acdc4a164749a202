// A name on the hub instead of a folder, against a small hub on this machine.
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, realpathSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { fixture, jsonOf, octet } from '../testing/cli.test-helper.js'

const ID = 'octet-test/gemma-mqa'
const COMMIT = 'a'.repeat(40)
const FOLDER = fixture('variants/gemma-mqa')

let server: Server
let dir: string
let env: Record<string, string>
let served: string[] = []

function listing(): object {
  const siblings = readdirSync(FOLDER).map((rfilename) => {
    const bytes = readFileSync(join(FOLDER, rfilename))
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const blobId = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
    return { rfilename, size: bytes.length, blobId, ...(rfilename.endsWith('.safetensors') ? { lfs: { sha256, size: bytes.length } } : {}) }
  })
  return { id: ID, sha: COMMIT, siblings }
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'octet-hub-'))
  server = createServer((request, response) => {
    const url = request.url!
    if (url.startsWith(`/api/models/${ID}/revision/main`)) return response.setHeader('content-type', 'application/json').end(JSON.stringify(listing()))
    const name = new RegExp(`^/${ID}/resolve/${COMMIT}/([^?]+)`).exec(url)?.[1]
    if (name === undefined) return response.writeHead(404).end()
    served.push(name)
    return response.end(readFileSync(join(FOLDER, name)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  env = { HF_ENDPOINT: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, HF_HOME: dir, HF_HUB_CACHE: '', HF_TOKEN: '', HF_HUB_OFFLINE: '' }
})
afterAll(async () => {
  server.close()
  await rm(dir, { recursive: true, force: true })
})

it('states the size and stops where nobody can be asked', async () => {
  const refused = await octet(['pull', ID], { env })
  expect(refused.status).toBe(2)
  expect(refused.stderr).toMatch(/^octet: octet-test\/gemma-mqa: 470 kB in 4 files would be downloaded; add --yes/)
  expect(served).toEqual([])
})

it('does not pull for an output that is taken', async () => {
  const output = join(dir, 'taken')
  await mkdir(join(output, 'mine'), { recursive: true })
  const refused = jsonOf(await octet(['quantize', '--model', ID, '--output', output, '--yes', '--json'], { env }))
  expect(refused.error).toMatchObject({ code: 'INVALID_ARGUMENT' })
  expect((refused.error as { message: string }).message).toContain('one with 1 entries')
  const ids = join(dir, 'ids.json')
  await writeFile(ids, '{"input_ids": [[1]]}')
  for (const path of [output, join(dir, 'nowhere', 'logits.safetensors')]) {
    const { error } = jsonOf(await octet(['logits', '--model', ID, '--input-ids', ids, '--output', path, '--yes', '--json'], { env }))
    expect(error).toMatchObject({ code: 'FILE_WRITE_FAILED' })
  }
  expect(served).toEqual([])
})

it('pulls, then runs from the cache without a request', async () => {
  const pulled = jsonOf(await octet(['pull', ID, '--yes', '--json'], { env })) as { dir: string; commit: string; downloadBytes: number }
  expect(pulled.commit).toBe(COMMIT)
  expect(pulled.downloadBytes).toBeGreaterThan(466_000)
  expect(served).toContain('model.safetensors')
  expect(realpathSync(pulled.dir).startsWith(realpathSync(dir))).toBe(true)
  served = []
  const { config } = jsonOf(await octet(['inspect', ID, '--json'], { env })) as { config: { modelType: string } }
  expect(config.modelType).toBe('gemma')
  expect(served).toEqual([])
})

it('says when the hub does not have the name', async () => {
  const result = await octet(['pull', 'octet-test/nothing', '--yes', '--json'], { env })
  expect(result.status).toBe(1)
  expect((jsonOf(result)['error'] as { code: string }).code).toBe('HUB_FAILED')
})

it('says when the hub does not answer', async () => {
  const result = await octet(['pull', ID, '--yes', '--json'], { env: { ...env, HF_ENDPOINT: 'http://127.0.0.1:9', HF_HOME: join(dir, 'other') }, timeoutMs: 90_000 })
  expect(result.status).toBe(1)
  expect((jsonOf(result)['error'] as { code: string }).code).toBe('HUB_FAILED')
})
