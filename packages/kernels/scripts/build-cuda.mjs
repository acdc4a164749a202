// Builds build/Release/octet_cuda.node and keeps the assembler's report of registers and spills in build/ptxas.json. Fails on
// a kernel that spills more than native/cuda/spills.json allows it.
//   node scripts/build-cuda.mjs [--archs "80;90a"]
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { overspills, parseLog, updateReport } from './ptxas.mjs'

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
const log = run('cmake', ['--build', build, '--parallel', String(availableParallelism()), ...(ninja.length > 0 ? [] : ['--', '-Otarget'])])

const file = join(home, 'build', 'ptxas.json')
const kept = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {}
const fresh = parseLog(log)
const report = updateReport(Array.isArray(kept) ? {} : kept, fresh, (source) => existsSync(join(home, 'native/cuda', source)))
mkdirSync(dirname(file), { recursive: true })
writeFileSync(file, `${JSON.stringify(report, null, 1)}\n`)
const compiled = Object.values(fresh).reduce((count, rows) => count + rows.length, 0)
const all = Object.values(report).flat()
const bad = overspills(report, JSON.parse(readFileSync(join(home, 'native/cuda/spills.json'), 'utf8')))
for (const { file: source, kernel, arch, spillStores, spillLoads } of bad) console.error(`spills: ${source} ${kernel} (${arch}) ${spillStores} bytes stored, ${spillLoads} loaded`)
console.log(`octet_cuda.node: ${compiled} kernels compiled for ${archs}; of ${all.length}, ${all.filter((row) => row.spillStores > 0).length} spill a register as native/cuda/spills.json allows, ${bad.length} more than that`)
if (bad.length > 0) process.exitCode = 1
