import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OctetError } from '@octet-llm/core'

export interface BuildNativeOptions {
  /** Folder with CMakeLists.txt and native/. Default: this package. */
  readonly root?: string
  /** Compiler jobs. Default: the cores this process may use. */
  readonly jobs?: number
  /** Gets the output of CMake and the compiler. Default: dropped; an error carries its end. */
  readonly log?: (text: string) => void
}

const TAIL = 4000

/**
 * Builds the native binary from the sources this package ships, with CMake (>= 3.20) and a C++20 compiler. Downloads
 * nothing. The next `openDevice` in a new process uses it, before any prebuilt one.
 *
 * @returns the path of the binary
 * @throws OctetError `NATIVE_NOT_FOUND` with the end of the compiler's output, or naming the missing program.
 */
export async function buildNative(options: BuildNativeOptions = {}): Promise<string> {
  const root = options.root ?? fileURLToPath(new URL('..', import.meta.url))
  const build = join(root, 'build')
  const jobs = String(options.jobs ?? availableParallelism())
  await cmake(['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release', `-DOCTET_NODE=${process.execPath}`], options.log)
  await cmake(['--build', build, '--config', 'Release', '--parallel', jobs], options.log)
  return join(build, 'Release', 'octet_cpu.node')
}

function cmake(args: readonly string[], log?: (text: string) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    let tail = ''
    const child = spawn('cmake', args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const take = (chunk: Buffer): void => {
      const text = chunk.toString()
      tail = (tail + text).slice(-TAIL)
      log?.(text)
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', (cause) => {
      reject(new OctetError('NATIVE_NOT_FOUND', { op: 'buildNative', argument: 'cmake', expected: 'CMake >= 3.20 on the PATH', received: cause.message, hint: 'install cmake and a C++20 compiler', cause }))
    })
    child.on('close', (code) => {
      if (code === 0) return resolve()
      reject(new OctetError('NATIVE_NOT_FOUND', { op: 'buildNative', message: `[buildNative] cmake ${args.join(' ')} ended with ${code}; its last lines:\n${tail}`, hint: 'see the compiler output' }))
    })
  })
}
