/** Shared by this folder's tests; not shipped. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OctetError, type ErrorCode } from '@octet-llm/core'
import { afterAll, expect } from 'vitest'
import { BYTE_OF_CHAR } from './bytes.js'

export const FIXTURES = fileURLToPath(new URL('../../../../fixtures/', import.meta.url))

export type Json = Record<string, unknown>

const made: string[] = []
afterAll(() => {
  for (const dir of made.splice(0)) rmSync(dir, { recursive: true, force: true })
})

/** A folder with the given files (objects as JSON), removed after the tests. */
export function makeFolder(files: Record<string, string | Json>): string {
  const dir = mkdtempSync(join(tmpdir(), 'octet-tokenizer-'))
  made.push(dir)
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content))
  }
  return dir
}

/** `a`…`z` as tokens 0…25 with the merges given, then further tokens; a complete tokenizer.json. */
export function tinyTokenizer(parts: { tokens?: readonly string[]; merges?: readonly [string, string][]; model?: Json; top?: Json } = {}): Json {
  const vocab = Object.create(null) as Record<string, number>
  const add = (token: string): void => {
    vocab[token] ??= Object.keys(vocab).length
  }
  for (const letter of 'abcdefghijklmnopqrstuvwxyz') add(letter)
  for (const token of parts.tokens ?? []) add(token)
  for (const [left, right] of parts.merges ?? []) add(left + right)
  return {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Fuse' },
    model: { type: 'BPE', unk_token: null, fuse_unk: false, byte_fallback: false, vocab, merges: parts.merges ?? [], ...parts.model },
    ...parts.top,
  }
}

/** A byte-level tokenizer over all 256 bytes: id = position in the alphabet's order. */
export function byteTokenizer(top: Json = {}): Json {
  const vocab = Object.fromEntries([...BYTE_OF_CHAR.keys()].map((char, id) => [char, id]))
  return {
    ...tinyTokenizer(),
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges: [] },
    ...top,
  }
}

export function addedToken(id: number, content: string, flags: Json = {}): Json {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: false, ...flags }
}

/** Runs something that must fail with one OctetError; returns it. */
export async function octetError(run: () => unknown, code: ErrorCode): Promise<OctetError> {
  let thrown: unknown
  try {
    await run()
  } catch (error) {
    thrown = error
  }
  expect(OctetError.is(thrown), `expected ${code}, got ${String(thrown)}`).toBe(true)
  const error = thrown as OctetError
  expect(error.code, error.message).toBe(code)
  return error
}

/** Process ids of sandboxes whose parent is `parent` (any parent when left out). Linux. */
export function sandboxPids(parent?: number): number[] {
  const pids: number[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      if (!readFileSync(`/proc/${name}/cmdline`, 'utf8').includes('tokenizer/worker.js')) continue
      const ppid = Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${name}/status`, 'utf8'))?.[1])
      if (parent === undefined || ppid === parent) pids.push(Number(name))
    } catch {
      // The process ended while it was looked at.
    }
  }
  return pids
}

/** Waits until the processes are gone. */
export async function expectGone(pids: readonly number[]): Promise<void> {
  const alive = (): number[] => pids.filter((pid) => existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`, 'utf8') !== '')
  await expect.poll(alive, { timeout: 10_000, interval: 20 }).toEqual([])
}
