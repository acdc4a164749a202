// npm run build:cuda: compiles the CUDA kernels (nvcc >= 12.8, sm_90a) where this version has them.
import { delimiter, join } from 'node:path'
import { fail, root, run } from './lib/proc.mjs'
import { readJson } from './lib/workspace.mjs'

const cwd = join(root, 'packages', 'kernels')
const script = readJson(join(cwd, 'package.json')).scripts['build:cuda']
if (script === undefined) fail('This version has no CUDA backend to build: everything runs on the CPU.')
const path = [join(cwd, 'node_modules/.bin'), process.env.PATH, '/usr/local/cuda/bin'].join(delimiter)
const { code } = await run('sh', ['-c', script], { cwd, env: { PATH: path }, inherit: true })
process.exitCode = code
