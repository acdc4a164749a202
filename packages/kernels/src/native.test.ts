import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OctetError } from '@octet-llm/core'
import { describe, expect, it } from 'vitest'
import { BUILD_COMMAND, loadNative, nativeCandidates } from './native.js'
import { ABI_REVISION, OP_INDEX, OP_NAMES, opTableHash } from './op-table.js'
import { claimThread } from './runtime.js'

const source = (path: string): string => readFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), 'utf8')

function caught(fn: () => unknown): OctetError {
  try {
    fn()
  } catch (error) {
    if (OctetError.is(error)) return error
    throw error
  }
  throw new Error('expected an OctetError')
}

describe('op table', () => {
  it('lists the ops of ops.def in their order', () => {
    const names = [...source('native/include/octet/ops.def').matchAll(/^X\((\w+)\)/gm)].map((m) => m[1])
    expect(OP_NAMES).toEqual(names)
    OP_NAMES.forEach((name, i) => expect(OP_INDEX[name]).toBe(i))
  })

  it('has a revision that both sides share and that moves with the functions of the addon', () => {
    expect(source('native/include/octet/op.h')).toContain(`constexpr int kAbiRevision = ${ABI_REVISION};`)
    // A change of this interface needs a new revision on both sides, and then the new pair here.
    const binding = /export interface NativeBinding \{[^]*?\n\}/.exec(source('src/native.ts'))![0]
    const signatures = binding.replaceAll(/\/\*\*[^]*?\*\//g, '').replaceAll(/\s+/g, ' ')
    expect([ABI_REVISION, opTableHash([signatures], 0)]).toEqual([4, 3240247758])
  })

  it('hashes revision, names, order and count', () => {
    // FNV-1a of "a,b," by hand: the published 32-bit parameters.
    let h = 0x811c9dc5
    for (const c of '7,a,b,') h = Math.imul(h ^ c.charCodeAt(0), 0x01000193)
    expect(opTableHash(['a', 'b'], 7)).toBe(h >>> 0)
    expect(opTableHash(['b', 'a'], 7)).not.toBe(h >>> 0)
    expect(opTableHash(['ab'], 7)).not.toBe(h >>> 0)
    expect(opTableHash(['a', 'b'], 8)).not.toBe(h >>> 0)
  })

  it('agrees with the binary', () => {
    const { opHash, opCount } = loadNative().describe()
    expect(opHash).toBe(opTableHash())
    expect(opCount).toBe(OP_NAMES.length)
  })
})

describe('loadNative', () => {
  it('tries the own build before the prebuilt package', () => {
    const [own, prebuilt] = nativeCandidates('linux', 'x64')
    expect(own).toMatch(/build\/Release\/octet_cpu\.node$/)
    expect(prebuilt).toBe('@octet-llm/kernels-linux-x64')
  })

  it('names every attempt and the command when nothing loads', () => {
    const folder = mkdtempSync(join(tmpdir(), 'octet-native-'))
    const broken = join(folder, 'broken.node')
    writeFileSync(broken, 'not a library')
    const error = caught(() => loadNative([join(folder, 'absent.node'), broken]))
    expect(error.code).toBe('NATIVE_NOT_FOUND')
    expect(error.message).toContain('absent.node')
    expect(error.message).toContain('broken.node')
    expect(error.message).toContain(BUILD_COMMAND)
  })

  it('refuses a binary with another op table, unless a later one fits', () => {
    const folder = mkdtempSync(join(tmpdir(), 'octet-native-'))
    const old = join(folder, 'old.cjs')
    writeFileSync(old, 'exports.describe = () => ({ opHash: 7, opCount: 1, levels: [] })')
    const error = caught(() => loadNative([old]))
    expect(error.code).toBe('ABI_MISMATCH')
    expect(error.message).toContain(old)
    expect(error.message).toContain(BUILD_COMMAND)
    expect(loadNative([old, ...nativeCandidates()]).describe().opHash).toBe(opTableHash())
  })
})

describe('claimThread', () => {
  it('lets one copy in, as often as it likes, and names both otherwise', () => {
    const registry: Record<symbol, unknown> = {}
    claimThread('file:///a/kernels/', registry)
    claimThread('file:///a/kernels/', registry)
    const error = caught(() => claimThread('file:///b/kernels/', registry))
    expect(error.code).toBe('DUPLICATE_KERNELS')
    expect(error.message).toContain('file:///a/kernels/')
    expect(error.message).toContain('file:///b/kernels/')
  })
})
