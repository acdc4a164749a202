/** What every test of this folder starts from: a fake hub, an empty cache, one small model. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, afterEach, beforeEach, expect, vi } from 'vitest'
import { OctetError, type ErrorCode } from '@octet-llm/core'
import { FakeHub, noise, sha256, type FakeFile } from './fake-hub.test-helper.js'
import type { PullOptions } from './index.js'

vi.setConfig({ testTimeout: 60_000 })

/** The built module, for child processes. */
export const DIST = pathToFileURL(fileURLToPath(new URL('../../dist/hub/index.js', import.meta.url))).href
export const COMMIT = 'c'.repeat(40)
export const CONFIG = '{"model_type":"gemma"}'
export const WEIGHTS = noise(300_000, 1)
export const MODEL: Readonly<Record<string, string | Buffer>> = {
  'config.json': CONFIG,
  'generation_config.json': '{}',
  'tokenizer.json': noise(5000, 2),
  'tokenizer_config.json': '{"bos_token":"<bos>"}',
  'chat_template.jinja': '{{ messages }}',
  'model.safetensors': WEIGHTS,
}

/** Fresh for each test. */
export let hub: FakeHub
export let cacheDir: string
export let options: PullOptions

const folders: string[] = []
beforeEach(async () => {
  hub = await FakeHub.start()
  cacheDir = freshFolder()
  options = { endpoint: hub.endpoint, cacheDir, token: null, retries: 2 }
})
afterEach(() => hub.stop())
afterAll(() => {
  for (const dir of folders) rmSync(dir, { recursive: true, force: true })
})

export function freshFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'octet-hub-'))
  folders.push(dir)
  return dir
}

export async function octetError(run: () => Promise<unknown>, code: ErrorCode): Promise<OctetError> {
  const thrown: unknown = await run().then(() => null, (error: unknown) => error)
  expect(OctetError.is(thrown, code), `expected ${code}, got ${String(thrown)}`).toBe(true)
  return thrown as OctetError
}

export function fileOf(name: string): FakeFile {
  const file = hub.repositories.get('tales/fairy')?.files.get(name)
  if (file === undefined) throw new Error(`the fake hub has no ${name}`)
  return file
}

/** Comparing Buffers element by element takes seconds. */
export function expectFile(path: string, bytes: Buffer): void {
  expect(readFileSync(path).equals(bytes), path).toBe(true)
}

/** A path in the repository's part of the cache. */
export const repo = (...parts: string[]): string => join(cacheDir, 'models--tales--fairy', ...parts)
export const blob = (bytes: Buffer): string => repo('blobs', sha256(bytes))
export const list = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir).sort() : [])
export const index = (map: Record<string, string>): string => JSON.stringify({ metadata: { total_size: 1 }, weight_map: map })
