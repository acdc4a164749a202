import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { type Command, Option } from 'commander'
import { OctetError } from '@octet-llm/core'
import { MANIFEST, describeBackends, listLevels, measureReadBandwidth, openDevice, type Device, type Isa, type OpName } from '@octet-llm/kernels'
import { CONTRACTS, countCases, mergeResults, runTable, unreached, type CaseResult, type TableMode, type TableResult } from '@octet-llm/kernels/contracts'
import { runGoldens } from '../../goldens/run-goldens.js'
import { runLimits } from '../../limits/run-limits.js'
import type { Context } from '../context.js'
import { device, oneOf, wholeNumber } from '../values.js'
import type { ShardOrder, ShardReport } from './verify-shard.js'

interface VerifyFlags {
  readonly device: string
  readonly op?: string
  readonly filter?: string
  readonly mode: TableMode
  readonly reduced?: boolean
  readonly isa: Isa | 'all'
  readonly threads?: number
  readonly jobs?: number
  readonly goldens?: string
  readonly limits?: string
}

/** Threads that share the table on a GPU, where the references in JavaScript take most of the time. */
const MOST_JOBS = 16
/** Cases below which one thread is done before others have started. */
const FEW_CASES = 400

export function addVerify(program: Command, context: Context): void {
  program
    .command('verify')
    .description("run the kernels' contract table on this machine")
    .addOption(new Option('--device <NAME>', 'cpu or cuda').default('cpu').argParser(device))
    .addOption(new Option('--op <NAME>', 'one op, as rmsNorm'))
    .addOption(new Option('--filter <WORDS>', 'cases, as a failing one prints them: rmsNorm D=15'))
    .addOption(new Option('--mode <MODE>', 'test, invariance, grad, perf or support').default('test').argParser(oneOf('test', 'invariance', 'grad', 'perf', 'support')))
    .addOption(new Option('--reduced', 'the cases of the fast tier only'))
    .addOption(new Option('--isa <LEVEL>', 'all levels of this CPU, or one by name').default('all').argParser(oneOf('all', 'baseline', 'avx2', 'avx512', 'avx512bf16', 'neon')))
    .addOption(new Option('--threads <N>', 'CPU threads').argParser(wholeNumber(1, 1024)))
    .addOption(new Option('--jobs <N>', 'threads that share the table of a GPU (default: the cores, at most 16)').argParser(wholeNumber(1, 256)))
    .addOption(new Option('--goldens <DIR>', "instead of the table: what Hugging Face's libraries computed, as in this repository's fixtures; --filter takes a model's name"))
    .addOption(new Option('--limits <MODEL>', 'instead of the table: leaks over 20 loads of this checkpoint, requests that cannot fit, ops that read early what the op before wrote, batches 1 to 256, prompts 1 to 8192, a fault').conflicts('goldens'))
    .action((flags: VerifyFlags) => {
      if (flags.goldens !== undefined) return verifyGoldens(flags.goldens, flags, context)
      return flags.limits === undefined ? verify(flags, context) : verifyLimits(flags.limits, flags, context)
    })
}

async function verify(flags: VerifyFlags, context: Context): Promise<void> {
  const { output, json, signal } = context
  const lines: string[] = []
  let writing: Promise<void> = Promise.resolve()
  const print = (line: string): void => {
    if (json) lines.push(line)
    else writing = writing.then(() => output.write(`${line}\n`))
  }
  const onFault = ({ fault, filter: own, device: where }: CaseResult): void => {
    if (!json) print(`FAIL ${where} ${own}: ${fault}`)
  }
  const jobs = jobsOf(flags)
  if (jobs > 1) {
    const result = await runShards(flags, jobs, onFault, signal)
    await writing
    return report(result, lines, flags, [], context)
  }
  const devices = await openDevices(flags)
  try {
    const peak = flags.mode === 'perf' && devices.length > 0 ? { gigabytesPerSecond: await measureReadBandwidth({ device: devices[0]!, threads: flags.threads }), teraflops: Infinity } : undefined
    const result = await runTable({
      device: devices.length === 0 ? 'cuda' : devices,
      mode: flags.mode,
      filter: filterOf(flags),
      reduced: flags.reduced,
      peak,
      print,
      onCase: (each) => {
        // The table has no signal of its own; leaving between two cases is soon enough.
        signal.throwIfAborted()
        if (each.fault !== null) onFault(each)
      },
    })
    await writing
    await report(result, lines, flags, devices, context)
  } finally {
    for (const each of devices) await each.dispose()
  }
}

/** Whole models against their goldens, and against themselves: recorded, paged, step by step. */
async function verifyGoldens(dir: string, { device: name, filter: only }: VerifyFlags, { output, json, signal }: Context): Promise<void> {
  if (await notRun('goldens', name, { output, json })) return
  let writing: Promise<void> = Promise.resolve()
  const { checks, failures } = await runGoldens(dir, {
    device: name as 'cpu',
    only,
    signal,
    onCheck: (title, { fault, measured }) => {
      const note = fault ?? measured
      if (!json) writing = writing.then(() => output.write(`${fault === null ? 'ok  ' : 'FAIL'} ${title}${note === undefined ? '' : `: ${note}`}\n`))
    },
  })
  await writing
  if (json) await output.json({ checks, failures })
  else await output.write(`goldens on ${name}: ${checks} checks, ${failures.length} failed\n`)
  if (failures.length > 0) throw new OctetError('OP_FAILED', { op: 'verify', message: `${failures.length} goldens do not hold; the first: ${failures[0]!.name}`, hint: 'see the lines that begin with FAIL' })
}

/** Leaks, refusals, sizes and a fault. */
async function verifyLimits(model: string, { device: name }: VerifyFlags, { output, json, signal }: Context): Promise<void> {
  if (await notRun('limits', name, { output, json })) return
  let writing: Promise<void> = Promise.resolve()
  const { checks, failures } = await runLimits({
    device: name as 'cpu',
    model,
    signal,
    onCheck: (title, fault) => {
      if (!json) writing = writing.then(() => output.write(fault === null ? `ok   ${title}\n` : `FAIL ${title}: ${fault}\n`))
    },
  })
  await writing
  if (json) await output.json({ checks, failures })
  else await output.write(`limits on ${name}: ${checks} checks, ${failures.length} failed\n`)
  if (failures.length > 0) throw new OctetError('OP_FAILED', { op: 'verify', message: `${failures.length} limits do not hold; the first: ${failures[0]!}`, hint: 'see the lines that begin with FAIL' })
}

/** Says that there is no GPU, where one was asked for and there is none. */
async function notRun(what: string, device: string, { output, json }: Pick<Context, 'output' | 'json'>): Promise<boolean> {
  const { cuda } = describeBackends()
  if (!device.startsWith('cuda') || cuda.available) return false
  if (json) await output.json({ checks: 0, failures: [], notRun: cuda.reason })
  else await output.write(`CUDA: NOT RUN (${what}): ${cuda.reason}\n`)
  return true
}

function filterOf({ op, filter }: VerifyFlags): string | undefined {
  const words = [op, filter].filter((part) => part !== undefined).join(' ')
  return words === '' ? undefined : words
}

/** Threads to share the table: several on a GPU when there is enough to do. */
function jobsOf(flags: VerifyFlags): number {
  if (!flags.device.startsWith('cuda') || flags.mode !== 'test' || !describeBackends().cuda.available) return 1
  if (flags.jobs !== undefined) return flags.jobs
  return countCases({ filter: filterOf(flags), reduced: flags.reduced }) < FEW_CASES ? 1 : Math.min(MOST_JOBS, availableParallelism())
}

/** Runs a share of the table on each of `jobs` threads, every one with a device of its own. */
async function runShards(flags: VerifyFlags, jobs: number, onFault: (fault: CaseResult) => void, signal: AbortSignal): Promise<TableResult> {
  const workers: Worker[] = []
  const stop = (): void => workers.forEach((worker) => void worker.terminate())
  signal.addEventListener('abort', stop)
  const run = (index: number): Promise<TableResult> =>
    new Promise((resolve, reject) => {
      const order: ShardOrder = { device: flags.device as 'cuda', filter: filterOf(flags), reduced: flags.reduced ?? false, shard: { index, count: jobs } }
      const worker = new Worker(new URL('verify-shard.js', import.meta.url), { workerData: order })
      workers.push(worker)
      let result: TableResult | undefined
      worker.on('message', (message: ShardReport) => {
        if ('result' in message) result = message.result
        else onFault(message.fault)
      })
      worker.on('error', reject)
      worker.on('exit', (code) => {
        if (result !== undefined) resolve(result)
        else reject(signal.aborted ? (signal.reason as Error) : new OctetError('INTERNAL', { op: 'verify', message: `A thread of the table ended early, with status ${code}`, hint: 'run it with --jobs 1' }))
      })
    })
  try {
    return mergeResults(await Promise.all(Array.from({ length: jobs }, (_, index) => run(index))))
  } finally {
    signal.removeEventListener('abort', stop)
    stop()
  }
}

async function report(result: TableResult, lines: readonly string[], flags: VerifyFlags, devices: readonly Device[], { output, json }: Context): Promise<void> {
  const { passed, skipped, failures, ops } = result
  const onGpu = flags.device.startsWith('cuda') && Object.keys(ops).length > 0
  const missed = onGpu ? missedVariants(result, flags) : []
  const failed = result.failed + missed.length
  const ran = Object.fromEntries(Object.entries(ops).filter(([op]) => !('gap' in MANIFEST.cuda[op as OpName])))
  if (json) {
    await output.json({ mode: flags.mode, devices: devices.map(({ name, isa, threads }) => ({ name, isa, threads })), passed, failed, skipped, failures, ops, missed, lines })
  } else {
    if (onGpu) for (const line of summary(result)) await output.write(`${line}\n`)
    for (const each of missed) await output.write(`FAIL ${each}: no case reaches this kernel\n`)
    await output.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`)
    if (onGpu) await output.write(`CUDA: ${total(ran, (op) => op.cases)} cases, ${total(ops, (op) => Object.keys(op.variants).length)} variants, ${failed} failed\n`)
  }
  if (passed + failed + skipped === 0 && flags.mode !== 'grad') {
    throw new OctetError('INVALID_ARGUMENT', { op: 'verify', argument: '--filter', expected: 'words of at least one case', received: flags.filter ?? flags.op ?? 'none', hint: 'see octet verify --mode support for the ops' })
  }
  if (failures.length > 0) {
    throw new OctetError('OP_FAILED', { op: 'verify', message: `${failed} cases failed; run one alone with octet verify --filter '${failures[0]!.filter}'`, hint: `octet verify --filter '${failures[0]!.filter}'` })
  }
  if (missed.length > 0) throw new OctetError('OP_FAILED', { op: 'verify', message: `No case reaches ${missed.join(', ')}`, hint: 'add cases to its contract' })
}

function total(ops: TableResult['ops'], pick: (op: TableResult['ops'][string]) => number): number {
  return Object.values(ops).reduce((sum, op) => sum + pick(op), 0)
}

/** Variants that no case of a whole op reached. The vendor's library may be absent: then its row is a gap, not a failure. */
function missedVariants(result: TableResult, flags: VerifyFlags): string[] {
  if (flags.filter !== undefined) return []
  const { cuda } = describeBackends()
  const without = cuda.available && cuda.cublasLt === null
  return unreached(result).filter((name) => !(without && name.endsWith(' cublaslt')))
}

/** A line for each op; under it, what each kernel ran and what the calls that it refuses lack. */
function* summary({ ops }: TableResult): Generator<string> {
  for (const { op } of CONTRACTS) {
    const tally = ops[op]
    if (tally === undefined) continue
    const row = MANIFEST.cuda[op]
    if ('gap' in row) {
      yield `${op.padEnd(18)} ${String(tally.cases).padStart(6)} cases, not run: ${row.gap}`
      continue
    }
    yield `${op.padEnd(18)} ${String(tally.cases).padStart(6)} cases, ${tally.failed} failed`
    for (const [variant, cases] of Object.entries(tally.variants)) {
      const asks = 'variants' in row ? (row.variants[variant] ?? '') : ''
      yield `  ${variant.padEnd(18)} ${String(cases).padStart(4)} cases${cases < tally.cases ? `, refuses ${tally.cases - cases}: asks for ${asks}` : ''}`
    }
  }
}

/** The GPU, none where `cuda` was asked for and there is no GPU (the table then says so), or the CPU's levels. */
async function openDevices(flags: VerifyFlags): Promise<Device[]> {
  if (!flags.device.startsWith('cuda')) return openLevels(flags)
  return describeBackends().cuda.available ? [await openDevice(flags.device as 'cuda')] : []
}

/** A device for each level asked for. */
async function openLevels({ isa, threads }: VerifyFlags): Promise<Device[]> {
  const levels = isa === 'all' ? listLevels().filter((level) => level.supported).map((level) => level.name) : [isa]
  return Promise.all(levels.map((level) => openDevice('cpu', { isa: level, threads })))
}
