import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OctetError } from '@octet-llm/core'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { buildNative } from './build-native.js'

let root: string
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'octet-build-'))
})
afterAll(() => rmSync(root, { recursive: true }))

const project = (text: string): string => {
  const folder = mkdtempSync(join(root, 'p-'))
  mkdirSync(join(folder, 'native'))
  writeFileSync(join(folder, 'CMakeLists.txt'), `cmake_minimum_required(VERSION 3.20)\nproject(p NONE)\n${text}\n`)
  return folder
}

async function failure(promise: Promise<unknown>): Promise<OctetError> {
  const error: unknown = await promise.then(
    () => undefined,
    (e: unknown) => e,
  )
  if (OctetError.is(error)) return error
  throw new Error(`expected an OctetError, got ${String(error)}`)
}

it('configures, builds and returns the path of the binary', async () => {
  // Stands in for the compiler: the real sources are what the checkout's own build compiles.
  const folder = project(`
    if(NOT OCTET_NODE STREQUAL "${process.execPath}" OR NOT CMAKE_BUILD_TYPE STREQUAL Release)
      message(FATAL_ERROR "wrong settings")
    endif()
    add_custom_target(octet_cpu ALL COMMAND \${CMAKE_COMMAND} -E touch \${CMAKE_CURRENT_BINARY_DIR}/Release/octet_cpu.node)
    file(MAKE_DIRECTORY \${CMAKE_CURRENT_BINARY_DIR}/Release)`)
  let log = ''
  const path = await buildNative({ root: folder, jobs: 1, log: (text) => (log += text) })
  expect(path).toBe(join(folder, 'build/Release/octet_cpu.node'))
  expect(existsSync(path)).toBe(true)
  expect(log).toContain('octet_cpu')
})

it('tells the end of the output when a build fails', async () => {
  const error = await failure(buildNative({ root: project('message(FATAL_ERROR "no compiler here")') }))
  expect(error.code).toBe('NATIVE_NOT_FOUND')
  expect(error.message).toContain('no compiler here')
})

it('names CMake when it is missing', async () => {
  const { PATH } = process.env
  process.env['PATH'] = root
  try {
    const error = await failure(buildNative({ root }))
    expect([error.code, error.argument]).toEqual(['NATIVE_NOT_FOUND', 'cmake'])
  } finally {
    process.env['PATH'] = PATH
  }
})
