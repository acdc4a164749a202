// Everything that is measured on a GPU host, in one call: correctness first, then ours and the peer's side in turn, then one
// table. Needs `npm run build` and `npm run build:cuda`; for the peer python3 with torch and transformers.
//   node bench/h200.mjs --output DIR [--sections verify,agree,models,peer,kernels,limits] [--bin octet.js] [--python python3]
//                       [--jobs gemma-7b-generate,llama-3-8b-decode,llama-3-8b-batch,llama-3-8b-prefill] [--repeats 3] [--shapes gemma-7b,llama-3-8b]
//                       [--commit HASH] [--peers DIR] [--budget SECONDS] [--run NAME]
// Writes DIR/h200.jsonl: every row, with its run, time, commit, GPU and driver. Prints the table; bench/report.mjs puts it and
// the picture into the docs.
// --run: the name that calls share whose rows belong together, as when sections that are not timed go beside other checks.
// --peers: a folder with a `peers3.py` that times the peer's products inside a graph; its rows are kept as they are.
import { execFileSync, spawn } from 'node:child_process'
import { appendFile, mkdir, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { JOBS, comparison, markdown } from './lib/comparison.mjs'

const here = import.meta.dirname
const text = (value) => ({ type: 'string', default: value })
const { values } = parseArgs({
  options: {
    output: { type: 'string' }, sections: text('verify,agree,models,peer,kernels,limits'), bin: text(join(here, '../packages/octet/bin/octet.js')), python: text('python3'),
    commit: { type: 'string' }, run: { type: 'string' }, peers: { type: 'string' }, budget: text('3600'), repeats: text('3'), shapes: text('gemma-7b,llama-3-8b'),
    jobs: text([...new Set(JOBS.map(({ section }) => section))].join(',')),
  },
})
if (values.output === undefined) throw new Error('give --output DIR')
const dir = resolve(values.output)
const bin = resolve(values.bin)
const sections = new Set(values.sections.split(','))
const jobs = values.jobs.split(',')
const end = Date.now() + Number(values.budget) * 1000
const rows = []
const started = values.run ?? new Date().toISOString()

/** The last line that a tool prints, or null where there is no such tool. */
function ask(command, args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim().split('\n').at(-1)
  } catch {
    return null
  }
}

const [gpu, driver] = (ask('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader']) ?? ', ').split(', ')
const commit = values.commit ?? ask('git', ['-C', here, 'describe', '--always', '--dirty', '--abbrev=12'])

async function keep(row) {
  const stamped = { run: started, time: new Date().toISOString(), commit, gpu: gpu || null, driver: driver || null, ...row }
  rows.push(stamped)
  await appendFile(join(dir, 'h200.jsonl'), `${JSON.stringify(stamped)}\n`)
}

/** Runs a command within what is left of the budget; resolves with its status, output and seconds. */
function run(label, command, args) {
  const left = end - Date.now()
  if (left < 1000) return Promise.resolve({ status: null, stdout: '', seconds: 0 })
  const start = performance.now()
  return new Promise((done) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: left, killSignal: 'SIGKILL' })
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (piece) => { stdout += piece })
    child.stderr.on('data', (piece) => { stderr += piece })
    child.on('error', (error) => { stderr += error.message })
    child.on('close', (status) => {
      const seconds = (performance.now() - start) / 1000
      process.stdout.write(`${status === 0 ? 'ok  ' : 'FAIL'} ${label} (${seconds.toFixed(1)} s)\n`)
      if (status !== 0) process.stdout.write(`${stdout.slice(-800)}\n${stderr.slice(-800)}\n`)
      done({ status, stdout, seconds })
    })
  })
}

const octet = (label, args) => run(label, process.execPath, [bin, ...args])
/** The JSON objects among a command's lines. */
const objects = (stdout) => stdout.split('\n').flatMap((line) => {
  try {
    return line.startsWith('{') ? [JSON.parse(line)] : []
  } catch {
    return []
  }
})

async function verify() {
  const { status, stdout, seconds } = await octet('verify, the reduced table', ['verify', '--device', 'cuda', '--reduced', '--json'])
  const [{ passed, failed, skipped } = {}] = objects(stdout)
  await keep({ bench: 'verify', reduced: true, passed: passed ?? null, failed: failed ?? null, skipped: skipped ?? null, ok: status === 0, seconds })
}

async function agree() {
  const models = ['gemma-7b', 'llama-3-8b']
  for (const model of models) {
    const ours = await run(`agree, our side of ${model}`, process.execPath, [join(here, 'agree.mjs'), join(dir, 'agree'), model, '--octet', resolve(bin, '../../dist/index.js')])
    if (ours.status !== 0) continue
    const theirs = await run(`agree, transformers' side of ${model}`, values.python, [join(here, 'agree.py'), join(dir, 'agree'), model])
    for (const row of objects(theirs.stdout)) await keep(row)
  }
  await rm(join(dir, 'agree'), { recursive: true, force: true })
}

async function models() {
  for (const { section, label, args } of JOBS.filter((job) => jobs.includes(job.section))) {
    const { stdout, seconds } = await octet(label, ['bench', ...args, '--device', 'cuda', '--repeats', values.repeats, '--json'])
    for (const { schemaVersion: _, kernels, ...row } of objects(stdout)) await keep({ ...row, section, label, kernels, processSeconds: seconds })
  }
  const { status, seconds } = await octet('start: random Llama-3-8B to its first token', ['generate', '--random-weights', 'llama-3-8b', '--device', 'cuda', '--input-ids', join(dir, 'ids.json'), '--max-new-tokens', '1', '--json'])
  await keep({ bench: 'start', model: 'llama-3-8b', seconds, ok: status === 0 })
}

async function peer() {
  const { stdout } = await run('the peer', values.python, [join(here, 'peers_hf.py'), ...jobs])
  for (const row of objects(stdout)) await keep(row)
  if (values.peers === undefined) return
  const more = await run("the peer's products", values.python, [join(values.peers, 'peers3.py')])
  for (const row of objects(more.stdout)) await keep({ bench: 'peer', section: 'products', ...row })
}

async function kernels() {
  for (const shapes of values.shapes.split(',')) {
    for (const args of [['gemm', '--tokens', '1,64,2048', '--fp8'], ['norm', '--tokens', '64,16384'], ['attention', '--batch', '1,64', '--contexts', '266,2048', '--fp8']]) {
      const { stdout } = await octet(`${args[0]} of ${shapes}`, ['bench', ...args, '--shapes', shapes, '--device', 'cuda', '--json'])
      for (const { rows: many } of objects(stdout)) for (const { hardware: _, ceilings: __, ...row } of many ?? []) await keep(row)
    }
  }
}

async function limits() {
  const { stdout } = await run('limits', process.execPath, [join(here, 'limits.mjs'), '--octet', resolve(bin, '../../dist/index.js')])
  for (const row of objects(stdout)) await keep(row)
}

await mkdir(dir, { recursive: true })
await writeFile(join(dir, 'ids.json'), JSON.stringify({ input_ids: [[3, 4, 5, 6]] }))
for (const [name, section] of Object.entries({ verify, agree, models, peer, kernels, limits })) if (sections.has(name)) await section()
process.stdout.write(markdown(comparison(rows), rows))
