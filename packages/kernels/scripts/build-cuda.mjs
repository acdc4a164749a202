// Builds build/Release/octet_cuda.node and keeps the assembler's report of registers and spills beside it.
//   node scripts/build-cuda.mjs [--archs "80;90a"]
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const home = dirname(dirname(fileURLToPath(import.meta.url)))
const build = join(home, 'build-cuda')
const at = process.argv.indexOf('--archs')
const archs = at < 0 ? '90a' : process.argv[at + 1]

function run(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: home, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (error !== undefined) throw error
  const text = stdout + stderr
  if (status !== 0) {
    process.stderr.write(text)
    process.exit(1)
  }
  return text
}

const ninja = spawnSync('ninja', ['--version']).status === 0 ? ['-G', 'Ninja'] : []
run('cmake', ['-S', join(home, 'native/cuda'), '-B', build, ...ninja, '-DCMAKE_BUILD_TYPE=Release', `-DOCTET_CUDA_ARCHS=${archs}`])
const log = run('cmake', ['--build', build, '--parallel', String(availableParallelism())])

// ptxas says per kernel: its name, its registers, its spills. Fast rows are written to have none; portable ones may save a
// register around a division call, which the report shows.
const report = [...log.matchAll(/Compiling entry function '(\S+)' for '(\S+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers/g)]
  .map(([, kernel, arch, stack, stores, loads, registers]) => ({ kernel, arch, registers: Number(registers), stack: Number(stack), spillStores: Number(stores), spillLoads: Number(loads) }))
mkdirSync(join(home, 'build'), { recursive: true })
if (report.length > 0) writeFileSync(join(home, 'build', 'ptxas.json'), `${JSON.stringify(report, null, 1)}\n`)
const spilled = report.filter((row) => row.spillStores + row.spillLoads > 0)
for (const row of spilled) console.error(`spills: ${row.kernel} (${row.arch}) ${row.spillStores} bytes stored, ${row.spillLoads} loaded`)
console.log(`octet_cuda.node: ${report.length} kernels compiled for ${archs}, ${spilled.length} with spills`)
