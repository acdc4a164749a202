// The layer check: imports only go down. Reads layers.json, every package's sources and manifest, and lists each breach.
//   node scripts/check-layers.mjs
// It looks at static and dynamic imports, exports and require of `src/**/*.ts`. A test file may use what its own
// package declares (dependencies and devDependencies), a source file only the dependencies that its layer allows.
import { existsSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, relative, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import ts from 'typescript'
import { root } from './lib/proc.mjs'
import { entryPoints, layers, libraryPackages, walk } from './lib/workspace.mjs'

const isTest = (path) => /\.test(-[a-z]+)?\.ts$/.test(path) || /\/src\/(.*\/)?testing\//.test(path)

/** Specifiers a file imports, exports from or requires. */
function importsOf(path) {
  return ts.preProcessFile(readFileSync(path, 'utf8'), true, true).importedFiles.map((file) => file.fileName)
}

/** `@scope/name/sub` → `@scope/name`. */
function packageOf(specifier) {
  return specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/')
}

function sourceOf(from, specifier) {
  return resolve(dirname(from), specifier.replace(/\.js$/, '.ts'))
}

/** All files reachable from `entry` by relative imports, and the bare specifiers they use. */
function closure(entry) {
  const files = new Set([entry])
  const bare = new Set()
  for (const file of files) {
    if (!existsSync(file)) continue
    for (const specifier of importsOf(file)) {
      if (specifier.startsWith('.')) files.add(sourceOf(file, specifier))
      else if (!specifier.startsWith('node:')) bare.add(specifier)
    }
  }
  return { files, bare }
}

function checkManifest(pkg, rule, siblings, say) {
  for (const field of ['dependencies', 'peerDependencies', 'optionalDependencies', 'devDependencies']) {
    for (const [name, range] of Object.entries(pkg.manifest[field] ?? {})) {
      const sibling = siblings.get(name)
      if (sibling === undefined) continue
      if (field === 'peerDependencies') say(`package.json: ${name} must not be a peer dependency`)
      if (range !== 'workspace:*') say(`package.json: ${name} must be "workspace:*", not "${range}"`)
      if (field === 'dependencies' && !rule.imports.includes(sibling.folder)) say(`package.json: ${name} is not below this layer`)
    }
  }
}

function checkFile(pkg, rule, siblings, file, say) {
  const { dependencies = {}, devDependencies = {}, peerDependencies = {}, optionalDependencies = {} } = pkg.manifest
  const test = isTest(file)
  const declared = { ...dependencies, ...peerDependencies, ...optionalDependencies, ...(test ? devDependencies : {}) }
  const where = `packages/${pkg.folder}/${relative(pkg.dir, file)}`
  for (const specifier of importsOf(file)) {
    if (specifier.startsWith('.')) {
      const target = sourceOf(file, specifier)
      if (!target.startsWith(join(pkg.dir, 'src'))) say(`${where}: "${specifier}" leaves the package's src`)
      if (!test && isTest(target)) say(`${where}: "${specifier}" is a test helper`)
      continue
    }
    if (specifier.startsWith('node:')) continue
    if (builtinModules.includes(specifier)) say(`${where}: write "node:${specifier}"`)
    const name = packageOf(specifier)
    const sibling = siblings.get(name)
    if (name === pkg.name) say(`${where}: imports its own package by name`)
    else if (!(name in declared)) say(`${where}: "${specifier}" is not declared in package.json`)
    else if (sibling !== undefined && !test && !rule.imports.includes(sibling.folder)) say(`${where}: "${specifier}" is not below this layer`)
    if (sibling !== undefined && !entryPoints(sibling).some((entry) => entry.specifier === specifier)) {
      say(`${where}: "${specifier}" is not an entry point of ${name}`)
    }
  }
}

function checkSubpath(pkg, entry, rule, siblings, say) {
  if (!existsSync(entry.source)) {
    say(`${entry.specifier}: its source ${relative(pkg.dir, entry.source)} does not exist`)
    return
  }
  for (const specifier of closure(entry.source).bare) {
    const name = packageOf(specifier)
    const sibling = siblings.get(name)
    if (sibling === undefined ? !rule.thirdParty.includes(name) : !rule.packages.includes(sibling.folder)) {
      say(`${entry.specifier}: reaches "${specifier}", which this subpath may not import`)
    }
  }
}

function checkTable({ floors, subpaths }, packages, say) {
  for (const [folder, rule] of Object.entries(floors)) {
    for (const lower of rule.imports) {
      if (floors[lower] === undefined) say(`layers.json: ${folder} names ${lower}, which has no row`)
      else if (floors[lower].floor >= rule.floor) say(`layers.json: ${folder} (floor ${rule.floor}) may not import ${lower} (floor ${floors[lower].floor})`)
    }
  }
  for (const key of Object.keys(subpaths)) {
    const [folder, ...rest] = key.split('/')
    const pkg = packages.find((candidate) => candidate.folder === folder)
    if (pkg?.manifest.exports[`./${rest.join('/')}`] === undefined) say(`layers.json: ${key} is not an export`)
  }
}

/** Every breach in the repository at `base` as a sentence; empty when the house is in order. */
export function layerBreaches(base = root) {
  const breaches = []
  const say = (message) => breaches.push(message)
  const table = layers(base)
  const packages = libraryPackages(base)
  const siblings = new Map(packages.map((pkg) => [pkg.name, pkg]))
  checkTable(table, packages, say)
  for (const pkg of packages) {
    const rule = table.floors[pkg.folder]
    if (rule === undefined) {
      say(`packages/${pkg.folder}: has no row in layers.json`)
      continue
    }
    checkManifest(pkg, rule, siblings, say)
    const files = walk(join(pkg.dir, 'src'), (path) => path.endsWith('.ts'))
    for (const file of files) checkFile(pkg, rule, siblings, file, say)
    const lines = files.filter((file) => !isTest(file)).reduce((sum, file) => sum + readFileSync(file, 'utf8').split('\n').length - 1, 0)
    if (rule.maxLines !== undefined && lines > rule.maxLines) say(`packages/${pkg.folder}: ${lines} source lines, at most ${rule.maxLines} are allowed`)
    for (const entry of entryPoints(pkg)) {
      const key = `${pkg.folder}${entry.subpath.slice(1)}`
      if (table.subpaths[key] !== undefined) checkSubpath(pkg, entry, table.subpaths[key], siblings, say)
    }
  }
  return breaches
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const breaches = layerBreaches()
  for (const breach of breaches) process.stdout.write(`${breach}\n`)
  process.stdout.write(breaches.length === 0 ? 'layers: imports only go down\n' : `layers: ${breaches.length} breaches\n`)
  process.exitCode = breaches.length === 0 ? 0 : 1
}
