/** The CUDA queues over a runtime without a GPU (native/test/cuda_queue.cc): what launches are told, events, graphs on two queues. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, it } from 'vitest'

const native = fileURLToPath(new URL('../native/', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'octet-cuda-queue-'))
afterAll(() => rmSync(folder, { recursive: true }))

const SOURCES = ['test/cuda_queue.cc', 'runtime/command_queue.cc', 'cuda/runtime/cuda_queue.cc', 'cuda/runtime/cuda_device.cc', 'cuda/runtime/file_stage.cc']

function run(command: string, args: readonly string[]): { status: number | null; text: string } {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: 240_000 })
  return { status, text: `${stdout}${stderr}` }
}

it('holds its checks', () => {
  const binary = join(folder, 'cuda_queue')
  const includes = ['test/fake_cuda', 'include'].flatMap((path) => ['-I', join(native, path)])
  const built = run(process.env['CXX'] ?? 'c++', ['-std=c++20', '-pthread', '-Wall', '-Wextra', '-Werror', ...includes, ...SOURCES.map((path) => join(native, path)), '-ldl', '-o', binary])
  expect(built).toEqual({ status: 0, text: '' })
  expect(run(binary, [])).toEqual({ status: 0, text: 'cuda queue: ok\n' })
}, 300_000)
