// Packs every publishable package the way a release does, and knows each tarball's closure.
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { mustRun, root } from './proc.mjs'
import { libraryPackages, platformPackages } from './workspace.mjs'

export const PNPM = ['npx', '-y', 'pnpm@12.21.0']

/** `@octet-llm/core` → `octet-llm-core-`: how npm and pnpm name a tarball. */
const tarballPrefix = (name) => `${name.replace('@', '').replace('/', '-')}-`

/** The platform packages that this machine can install. */
export function fittingPlatforms() {
  const fits = (list, value) => list === undefined || list.includes(value)
  return platformPackages().filter((pkg) => fits(pkg.manifest.os, process.platform) && fits(pkg.manifest.cpu, process.arch))
}

/** Packs all packages into `dir`. Returns a map from package name to its tarball's path. */
export async function packAll(dir) {
  mkdirSync(dir, { recursive: true })
  const [command, ...args] = PNPM
  const platforms = fittingPlatforms()
  // Puts the binary of this machine's build where its package expects it, checked as for a release.
  if (platforms.length > 0) await mustRun(process.execPath, [join(root, 'packages/kernels/scripts/pack-native.mjs')])
  const packages = [...libraryPackages(), ...platforms]
  const filters = packages.flatMap((pkg) => ['--filter', pkg.name])
  await mustRun(command, [...args, ...filters, '-r', 'pack', '--pack-destination', dir], { cwd: root })
  const files = readdirSync(dir)
  return new Map(packages.map((pkg) => {
    const file = files.find((name) => name === `${tarballPrefix(pkg.name)}${pkg.manifest.version}.tgz`)
    if (file === undefined) throw new Error(`${pkg.name} left no tarball in ${dir}`)
    return [pkg.name, join(dir, file)]
  }))
}

/** Workspace packages that `pkg` needs to run, itself included. */
export function closureOf(pkg, all) {
  const byName = new Map(all.map((each) => [each.name, each]))
  const found = new Set([pkg.name])
  for (const name of found) {
    const { dependencies = {}, optionalDependencies = {} } = byName.get(name).manifest
    for (const dependency of Object.keys({ ...dependencies, ...optionalDependencies })) {
      if (byName.has(dependency)) found.add(dependency)
    }
  }
  return [...found]
}
