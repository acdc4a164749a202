// Installs what users will install. Packs every package, puts each one's tarball closure into an empty project, imports
// all its entry points there, checks their types, and runs the first example of its README.
//   node scripts/packed-install.mjs [PACKAGE…] [--keep] [--node 22,24]
// --node also runs the imports and examples with these major versions of Node, which npm brings as node-<platform>-<cpu>.
// Third-party packages come from the workspace's own install, so no registry is asked and the versions are the tested ones.
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { elapsed, mustRun, root } from './lib/proc.mjs'
import { closureOf, fittingPlatforms, packAll } from './lib/pack.mjs'
import { entryPoints, libraryPackages, readJson } from './lib/workspace.mjs'

const say = (line) => process.stdout.write(`${line}\n`)
const { values: flags, positionals: only } = parseArgs({ allowPositionals: true, options: { keep: { type: 'boolean' }, node: { type: 'string' } } })

const packages = [...libraryPackages(), ...fittingPlatforms()]
const workspaceNames = new Set(packages.map((pkg) => pkg.name))
const work = mkdtempSync(join(tmpdir(), 'octet-packed-'))
const vendor = join(work, 'vendor')
const vendored = new Map()

/** Packs an installed third-party package, and the ones it needs, once. */
async function vendorThirdParty(name, from, found) {
  if (found.has(name)) return
  const dir = realpathSync(join(from, name))
  if (!vendored.has(dir)) {
    mkdirSync(vendor, { recursive: true })
    const [{ filename }] = JSON.parse(await mustRun('npm', ['pack', dir, '--json', '--ignore-scripts', '--pack-destination', vendor, '--loglevel=error']))
    vendored.set(dir, join(vendor, filename))
  }
  found.set(name, vendored.get(dir))
  // pnpm lays a package's own dependencies beside it.
  const beside = join(dir, name.startsWith('@') ? '../..' : '..')
  for (const dependency of Object.keys(readJson(join(dir, 'package.json')).dependencies ?? {})) await vendorThirdParty(dependency, beside, found)
}

/** The first JavaScript fence of a README. */
function readmeExample(pkg) {
  const match = /```(?:js|javascript|mjs)\n([\s\S]*?)```/.exec(readFileSync(join(pkg.dir, 'README.md'), 'utf8'))
  if (match === null) throw new Error(`packages/${pkg.folder}/README.md has no JavaScript example`)
  return match[1]
}

async function install(project, pkg, tarballs) {
  const closure = closureOf(pkg, packages)
  const thirdParty = new Map()
  for (const name of closure) {
    const member = packages.find((each) => each.name === name)
    for (const dependency of Object.keys(member.manifest.dependencies ?? {})) {
      if (!workspaceNames.has(dependency)) await vendorThirdParty(dependency, join(member.dir, 'node_modules'), thirdParty)
    }
  }
  const dependencies = Object.fromEntries([...closure.map((name) => [name, tarballs.get(name)]), ...thirdParty].map(([name, file]) => [name, `file:${file}`]))
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'empty', private: true, type: 'module', dependencies }, null, 2))
  await mustRun('npm', ['install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: project, timeoutMs: 300_000 })
}

/** What README examples refer to, under the names they use. */
function placeFixtures(project) {
  for (const name of ['fairy-gemma', 'fairy-llama', 'variants']) symlinkSync(join(root, 'fixtures', name), join(project, name))
  symlinkSync(join(root, 'fixtures', 'variants', 'gemma2', 'model.safetensors'), join(project, 'model.safetensors'))
}

async function checkTypes(project, pkg) {
  const lines = entryPoints(pkg).map((entry, i) => `import * as m${i} from '${entry.specifier}'\nvoid m${i}`)
  writeFileSync(join(project, 'types.ts'), `${lines.join('\n')}\n`)
  mkdirSync(join(project, 'node_modules', '@types'), { recursive: true })
  symlinkSync(realpathSync(join(root, 'node_modules', '@types', 'node')), join(project, 'node_modules', '@types', 'node'))
  const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,esnext.disposable', '--types', 'node', '--skipLibCheck', 'false']
  for (const typescript of ['typescript', 'typescript-7']) {
    await mustRun(process.execPath, [join(root, 'node_modules', typescript, 'bin', 'tsc'), ...options, 'types.ts'], { cwd: project })
  }
}

/** This Node, and the others that were asked for. */
async function nodeBinaries() {
  const binaries = [process.execPath]
  for (const major of flags.node?.split(',') ?? []) {
    const prefix = join(work, `node-${major}`)
    const name = `node-${process.platform}-${process.arch}`
    mkdirSync(prefix)
    await mustRun('npm', ['install', '--prefix', prefix, '--no-audit', '--no-fund', '--loglevel=error', `${name}@${major}`], { cwd: prefix })
    binaries.push(join(prefix, 'node_modules', name, 'bin', 'node'))
  }
  return binaries
}

async function runWith(node, project, pkg) {
  for (const { specifier } of entryPoints(pkg)) {
    await mustRun(node, ['--input-type=module', '-e', `await import(${JSON.stringify(specifier)})`], { cwd: project, timeoutMs: 60_000 })
  }
  for (const bin of Object.keys(pkg.manifest.bin ?? {})) {
    await mustRun(node, [join(project, 'node_modules', '.bin', bin), '--version'], { cwd: project, timeoutMs: 60_000 })
  }
  await mustRun(node, ['readme.mjs'], { cwd: project, timeoutMs: 120_000 })
}

async function check(pkg, tarballs, nodes) {
  const start = performance.now()
  const project = join(work, pkg.folder)
  mkdirSync(project)
  await install(project, pkg, tarballs)
  placeFixtures(project)
  writeFileSync(join(project, 'readme.mjs'), readmeExample(pkg))
  for (const node of nodes) await runWith(node, project, pkg)
  await checkTypes(project, pkg)
  say(`  ${pkg.name}: installs, imports, README example, types (${elapsed(start)})`)
}

let failed = 0
try {
  const tarballs = await packAll(join(work, 'tarballs'))
  const nodes = await nodeBinaries()
  for (const pkg of libraryPackages()) {
    if (only.length > 0 && !only.includes(pkg.folder)) continue
    try {
      await check(pkg, tarballs, nodes)
    } catch (error) {
      failed += 1
      say(`  ${pkg.name}: ${error.message}`)
    }
  }
} finally {
  if (flags.keep) say(`kept in ${dirname(vendor)}`)
  else rmSync(work, { recursive: true, force: true })
}
say(failed === 0 ? 'packed installs: all packages work from their tarballs' : `packed installs: ${failed} packages fail`)
process.exitCode = failed === 0 ? 0 : 1
