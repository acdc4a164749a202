// Builds what a checkout needs to run: the TypeScript of every package and the native CPU kernels.
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { elapsed, root, run } from './proc.mjs'
import { toolchainProblem } from './toolchain.mjs'
import { readJson } from './workspace.mjs'

async function step(title, command, args, options, say) {
  const start = performance.now()
  const { code, stdout, stderr } = await run(command, args, options)
  if (code !== 0) throw new Error(`${title} failed:\n${stdout}${stderr}`)
  say(`${title}: ${elapsed(start)}`)
}

/** Compiles all TypeScript, tests included: this is the type check as well. */
export async function buildTypeScript(say = () => {}) {
  await step('TypeScript', process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b', '--pretty', 'false'], {}, say)
}

/** Runs the native build of packages/kernels; it compiles only what changed. */
export async function buildNative(say = () => {}) {
  const cwd = join(root, 'packages', 'kernels')
  if (!existsSync(join(cwd, 'build', 'Release'))) say('native CPU kernels: compiling for every instruction-set level, once; a few minutes')
  const script = readJson(join(cwd, 'package.json')).scripts['build:native']
  const path = [join(cwd, 'node_modules/.bin'), join(root, 'node_modules/.bin'), process.env.PATH].join(delimiter)
  await step('native CPU kernels', 'sh', ['-c', script], { cwd, env: { PATH: path } }, say)
}

/** Everything a fresh clone needs, in order; says each step with its time. @throws Error with one clear message. */
export async function build(say = () => {}) {
  const problem = await toolchainProblem()
  if (problem !== null) throw new Error(problem)
  await buildTypeScript(say)
  await buildNative(say)
}
