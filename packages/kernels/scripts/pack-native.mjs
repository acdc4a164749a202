// Copies the built binary into its platform package, after checking what a release promises of it:
// no glibc above 2.31, no libstdc++ above 3.4.28, at most 5 MB packed, no static initialiser in an instruction-set level.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const binary = join(root, 'build/Release/octet_cpu.node')
const platform = `${process.platform}-${process.arch}`
const target = join(root, 'platforms', platform)

if (!existsSync(binary)) fail(`${binary} is not there; run \`pnpm run build:native\` first`)
if (!existsSync(target)) fail(`there is no platform package for ${platform}`)
if (process.platform === 'linux') checkLinux()
copyFileSync(binary, join(target, 'octet_cpu.node'))
copyFileSync(join(root, 'LICENSE'), join(target, 'LICENSE'))
console.log(`octet_cpu.node -> platforms/${platform}`)

function checkLinux() {
  const symbols = execFileSync('objdump', ['-T', binary], { encoding: 'utf8', maxBuffer: 1 << 28 })
  for (const [prefix, limit] of [['GLIBC_', '2.31'], ['GLIBCXX_', '3.4.28']]) {
    for (const [, version] of symbols.matchAll(new RegExp(`\\b${prefix}([0-9.]+)`, 'g'))) {
      if (compare(version, limit) > 0) fail(`the binary needs ${prefix}${version}, above ${limit}`)
    }
  }
  const packed = gzipSync(readFileSync(binary)).length
  if (packed > 5e6) fail(`the binary packs to ${packed} bytes, above 5 MB`)
  const objects = join(root, 'build/CMakeFiles')
  for (const level of readdirSync(objects).filter((name) => /^octet_(?!cpu)\w+\.dir$/.test(name))) {
    for (const file of readdirSync(join(objects, level, 'native/cpu')).filter((name) => name.endsWith('.o'))) {
      const sections = execFileSync('objdump', ['-h', join(objects, level, 'native/cpu', file)], { encoding: 'utf8' })
      if (/\.init_array|\.ctors/.test(sections)) fail(`${level}/${file} has a static initialiser`)
    }
  }
}

function compare(a, b) {
  const [x, y] = [a, b].map((v) => v.split('.').map(Number))
  for (let i = 0; i < Math.max(x.length, y.length); i++) if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) - (y[i] ?? 0)
  return 0
}

function fail(message) {
  console.error(`pack-native: ${message}`)
  process.exit(1)
}
