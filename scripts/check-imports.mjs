// Imports each package and subpath in a child process that can see nothing but what its layer allows: what layers.json
// and package.json declare lies in a bare node_modules, everything else is absent.
//   node scripts/check-imports.mjs        (after a build)
import { cpSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { elapsed, run } from './lib/proc.mjs'
import { entryPoints, layers, libraryPackages } from './lib/workspace.mjs'

const { floors, subpaths } = layers()
const packages = new Map(libraryPackages().map((pkg) => [pkg.folder, pkg]))

/** Copies what a package publishes (its native binary too, wherever a checkout builds it). */
function place(modules, pkg) {
  const target = join(modules, pkg.name)
  mkdirSync(target, { recursive: true })
  cpSync(join(pkg.dir, 'package.json'), join(target, 'package.json'))
  for (const part of ['dist', 'build/Release']) {
    const from = join(pkg.dir, part)
    if (existsSync(from)) cpSync(from, join(target, part), { recursive: true, filter: (path) => !path.includes('.test.') })
  }
}

function placeThirdParty(modules, pkg, name) {
  const installed = realpathSync(join(pkg.dir, 'node_modules', name))
  mkdirSync(dirname(join(modules, name)), { recursive: true })
  if (!existsSync(join(modules, name))) symlinkSync(installed, join(modules, name))
}

/** What an entry point may see: [sibling folders, third-party names with the package that installs them]. */
function allowance(pkg, entry) {
  const rule = subpaths[`${pkg.folder}${entry.subpath.slice(1)}`]
  const siblings = rule?.packages ?? floors[pkg.folder].imports
  const ownThirdParty = Object.keys(pkg.manifest.dependencies ?? {}).filter((name) => ![...packages.values()].some((p) => p.name === name))
  const thirdParty = (rule?.thirdParty ?? ownThirdParty).map((name) => [pkg, name])
  for (const folder of siblings) {
    const sibling = packages.get(folder)
    const names = Object.keys(sibling.manifest.dependencies ?? {}).filter((name) => existsSync(join(sibling.dir, 'node_modules', name)))
    for (const name of names) if (![...packages.values()].some((p) => p.name === name)) thirdParty.push([sibling, name])
  }
  return { siblings, thirdParty }
}

async function tryImport(pkg, entry) {
  const dir = mkdtempSync(join(tmpdir(), 'octet-imports-'))
  try {
    const modules = join(dir, 'node_modules')
    const { siblings, thirdParty } = allowance(pkg, entry)
    place(modules, pkg)
    for (const folder of siblings) place(modules, packages.get(folder))
    for (const [owner, name] of thirdParty) placeThirdParty(modules, owner, name)
    const code = `const m = await import(${JSON.stringify(entry.specifier)}); if (Object.keys(m).length === 0) throw new Error('exports nothing')`
    return await run(process.execPath, ['--input-type=module', '-e', code], { cwd: dir, timeoutMs: 60_000 })
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

const start = performance.now()
let failed = 0
let count = 0
for (const pkg of packages.values()) {
  for (const entry of entryPoints(pkg)) {
    count += 1
    const { code, stderr } = await tryImport(pkg, entry)
    if (code === 0) continue
    failed += 1
    process.stdout.write(`${entry.specifier}: does not import with the forbidden packages absent\n${stderr}\n`)
  }
}
process.stdout.write(`imports: ${count - failed} of ${count} entry points import alone (${elapsed(start)})\n`)
process.exitCode = failed === 0 ? 0 : 1
