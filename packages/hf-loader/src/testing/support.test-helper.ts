import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OctetError, type ErrorCode } from '@octet-llm/core'
import { afterAll, beforeAll, expect } from 'vitest'

/** A file or folder of the repository's fixtures. */
export function fixture(...parts: string[]): string {
  return join(fileURLToPath(new URL('../../../../fixtures', import.meta.url)), ...parts)
}

/** Cases of a property: the fast tier's number, or what OCTET_FUZZ_CASES asks for. */
export function fuzzCases(fast = 300): number {
  const asked = Number(process.env['OCTET_FUZZ_CASES'] ?? 0)
  return asked > fast ? asked : fast
}

/** Time a property may take when it runs with its full count. */
export const FUZZ_TIMEOUT = 600_000

/** A folder for the tests of one file, removed after them. */
export function useTempFolder(): { path(...parts: string[]): string } {
  let folder = ''
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'octet-hf-loader-'))
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))
  return { path: (...parts) => join(folder, ...parts) }
}

/** The OctetError that a promise or a function fails with; anything else fails the test. */
export async function octetError(run: Promise<unknown> | (() => unknown), code: ErrorCode, message?: RegExp): Promise<OctetError> {
  const error = await caught(run)
  if (!OctetError.is(error)) throw new Error(`expected an OctetError ${code}, got ${String(error)}`, { cause: error })
  expect(error.code, error.message).toBe(code)
  if (message !== undefined) expect(error.message).toMatch(message)
  return error
}

/** What a promise or function throws; undefined when it succeeds. */
export async function caught(run: Promise<unknown> | (() => unknown)): Promise<unknown> {
  try {
    await (typeof run === 'function' ? run() : run)
    return undefined
  } catch (error) {
    return error
  }
}

/** True when a run succeeds or fails as this package promises: with one OctetError of one of these codes. */
export async function failsOnlyWith(run: () => Promise<unknown>, codes: readonly ErrorCode[]): Promise<boolean> {
  const error = await caught(run)
  if (error === undefined) return true
  if (!OctetError.is(error) || !codes.includes(error.code)) throw error
  return true
}

/** Names in a folder, sorted. */
export async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder)).sort()
}
