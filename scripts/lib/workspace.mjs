// The workspace as the scripts see it: every package with its manifest, and what the layer file says of it.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { root } from './proc.mjs'

export const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'))

function loadPackage(dir) {
  const manifest = readJson(join(dir, 'package.json'))
  return { dir, folder: basename(dir), name: manifest.name, manifest }
}

function foldersWithManifest(parent) {
  if (!existsSync(parent)) return []
  return readdirSync(parent, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && existsSync(join(parent, entry.name, 'package.json')))
    .map((entry) => join(parent, entry.name))
}

/** Packages in packages/*, in the order of their folders. */
export function libraryPackages(base = root) {
  return foldersWithManifest(join(base, 'packages')).map(loadPackage)
}

/** The per-platform packages that carry native binaries. */
export function platformPackages() {
  return foldersWithManifest(join(root, 'packages', 'kernels', 'platforms')).map(loadPackage)
}

export function layers(base = root) {
  return readJson(join(base, 'layers.json'))
}

/** Import specifiers of a package that lead to JavaScript: `.` first, then its subpaths. */
export function entryPoints(pkg) {
  return Object.entries(pkg.manifest.exports ?? {})
    .filter(([, target]) => typeof target === 'object' && target.default?.endsWith('.js'))
    .map(([subpath, target]) => ({
      subpath,
      specifier: subpath === '.' ? pkg.name : `${pkg.name}${subpath.slice(1)}`,
      source: join(pkg.dir, target.default.replace('./dist/', 'src/').replace(/\.js$/, '.ts')),
      types: join(pkg.dir, target.types ?? ''),
    }))
}

/** Every file below `dir` whose name passes `filter`, depth first, in name order; build outputs are left out. */
export function walk(dir, filter = () => true) {
  const found = []
  for (const entry of readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (['node_modules', 'dist', 'build', '.git', '.cache', '.turbo'].includes(entry.name)) continue
    const path = join(dir, entry.name)
    if (entry.isDirectory()) found.push(...walk(path, filter))
    else if (filter(path)) found.push(path)
  }
  return found
}
