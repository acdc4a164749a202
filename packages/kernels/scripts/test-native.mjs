// Builds the queue runtime's stress test and the test of the CUDA queues over a runtime without a GPU, under the thread sanitizer
// and under the address and undefined-behaviour sanitizers, and runs them. Argument: how many times over (default 1).
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const build = mkdtempSync(join(tmpdir(), 'octet-stress-'))
try {
  for (const sanitizer of ['thread', 'address,undefined']) {
    const folder = join(build, sanitizer.split(',')[0])
    run('cmake', ['-S', root, '-B', folder, '-DOCTET_BUILD_TESTS=ON', `-DOCTET_SANITIZE=${sanitizer}`, `-DOCTET_NODE=${process.execPath}`])
    run('cmake', ['--build', folder, '--target', 'octet_stress', 'octet_cuda_queue', '--parallel', '2'])
    console.log(`${sanitizer}:`)
    for (const test of ['octet_stress', 'octet_cuda_queue']) run(join(folder, test), [process.argv[2] ?? '1'], 'inherit')
  }
} finally {
  rmSync(build, { recursive: true })
}

function run(command, args, stdio = 'pipe') {
  const { status, signal, stdout, stderr } = spawnSync(command, args, { stdio, encoding: 'utf8' })
  if (status === 0) return
  console.error(`${command} ${args.join(' ')} ended with ${status ?? signal}\n${stdout ?? ''}${stderr ?? ''}`)
  process.exitCode = 1
  throw new Error('the native test failed')
}
