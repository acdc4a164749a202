import { type Command, Option } from 'commander'
import { OctetError } from '@octet-llm/core'
import { describeBackends, listLevels, measureReadBandwidth, openDevice, type Device, type Isa } from '@octet-llm/kernels'
import { runTable, type TableMode, type TableResult } from '@octet-llm/kernels/contracts'
import type { Context } from '../context.js'
import { device, oneOf, wholeNumber } from '../values.js'

interface VerifyFlags {
  readonly device: string
  readonly op?: string
  readonly filter?: string
  readonly mode: TableMode
  readonly reduced?: boolean
  readonly isa: Isa | 'all'
  readonly threads?: number
}

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
    .action((flags: VerifyFlags) => verify(flags, context))
}

async function verify(flags: VerifyFlags, { output, json, signal }: Context): Promise<void> {
  const filter = [flags.op, flags.filter].filter((part) => part !== undefined).join(' ')
  const devices = await openDevices(flags)
  const lines: string[] = []
  let writing: Promise<void> = Promise.resolve()
  const print = (line: string): void => {
    if (json) lines.push(line)
    else writing = writing.then(() => output.write(`${line}\n`))
  }
  try {
    const peak = flags.mode === 'perf' && devices.length > 0 ? { gigabytesPerSecond: await measureReadBandwidth({ threads: flags.threads }), teraflops: Infinity } : undefined
    const result = await runTable({
      device: devices.length === 0 ? 'cuda' : devices,
      mode: flags.mode,
      filter: filter === '' ? undefined : filter,
      reduced: flags.reduced,
      peak,
      print,
      onCase: ({ fault, filter: own, device: where }) => {
        // The table has no signal of its own; leaving between two cases is soon enough.
        signal.throwIfAborted()
        if (fault !== null && !json) print(`FAIL ${where} ${own}: ${fault}`)
      },
    })
    await writing
    await report(result, lines, flags, devices, { output, json })
  } finally {
    for (const each of devices) await each.dispose()
  }
}

async function report(result: TableResult, lines: readonly string[], flags: VerifyFlags, devices: readonly Device[], { output, json }: Pick<Context, 'output' | 'json'>): Promise<void> {
  const { passed, failed, skipped, failures } = result
  if (json) await output.json({ mode: flags.mode, devices: devices.map(({ name, isa, threads }) => ({ name, isa, threads })), passed, failed, skipped, failures, lines })
  else await output.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`)
  if (passed + failed + skipped === 0 && flags.mode !== 'grad') {
    throw new OctetError('INVALID_ARGUMENT', { op: 'verify', argument: '--filter', expected: 'words of at least one case', received: flags.filter ?? flags.op ?? 'none', hint: 'see octet verify --mode support for the ops' })
  }
  if (failed > 0) {
    throw new OctetError('OP_FAILED', { op: 'verify', message: `${failed} cases failed; run one alone with octet verify --filter '${failures[0]!.filter}'`, hint: `octet verify --filter '${failures[0]!.filter}'` })
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
