/** Walks the table on devices: the one runner behind the tests, `octet verify` and the benchmarks. */
import { OctetError } from '@octet-llm/core'
import { openDevice, type Device } from '../device.js'
import type { ContractCase, OpContract } from './contract.js'
import { runAlone, start } from './execute.js'
import { filterOf, matches } from './filter.js'
import { Random } from './host.js'
import { runInvariance } from './invariance.js'
import { runPerf, type DevicePeak } from './perf.js'
import { CONTRACTS } from './table.js'

/**
 * `test`: against the float64 reference. `invariance`: float32 rows to the bit under other batches, splits and thread
 * counts. `grad`: analytic against finite differences. `perf`: time against the device's peak. `support`: which ops have
 * a kernel.
 */
export type TableMode = 'test' | 'invariance' | 'grad' | 'perf' | 'support'

export interface TableOptions {
  /** Devices that run each case. `'cuda'` opens the first GPU, or says that the cases were not run. */
  readonly device: Device | readonly Device[] | 'cuda'
  /** Default `test`. */
  readonly mode?: TableMode
  /** Words as a failing case prints them: `rmsNorm D=15`. Default: everything. */
  readonly filter?: string
  /** Only the cases of the fast tier. Default false. */
  readonly reduced?: boolean
  /** Called after each case on each device. */
  readonly onCase?: (result: CaseResult) => void
  /** Lines of `perf` and `support`, and what was not run. Default: none. */
  readonly print?: (line: string) => void
  /** What `perf` compares with. Default: no percentages. */
  readonly peak?: DevicePeak
}

export interface CaseResult {
  readonly op: string
  readonly name: string
  /** Device and level, e.g. `cpu/avx2`. */
  readonly device: string
  /** What is wrong; null when the case passed. */
  readonly fault: string | null
  /** Runs this case alone. */
  readonly filter: string
}

export interface TableResult {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
  readonly failures: readonly CaseResult[]
}

/** Cases in flight at once: hides the way to the worker and back. */
const BATCH = 16

/** Collects results and reports them. */
export class Tally {
  passed = 0
  skipped = 0
  readonly failures: CaseResult[] = []
  constructor(readonly options: TableOptions) {}

  add(op: string, name: string, device: Device, fault: string | null): void {
    const result = { op, name, device: labelOf(device), fault, filter: filterOf(op, name) }
    if (fault === null) this.passed++
    else this.failures.push(result)
    this.options.onCase?.(result)
  }
  get result(): TableResult {
    return { passed: this.passed, failed: this.failures.length, skipped: this.skipped, failures: this.failures }
  }
}

export function labelOf(device: Device): string {
  return `${device.name}/${device.isa}`
}

/**
 * Runs the table.
 * @throws OctetError only for a device that cannot be opened for another reason than its absence.
 */
export async function runTable(options: TableOptions): Promise<TableResult> {
  if (options.device !== 'cuda') return runOn([options.device].flat(), options)
  let device: Device
  try {
    device = await openDevice('cuda')
  } catch (error) {
    if (!OctetError.is(error, 'DEVICE_NOT_FOUND') && !OctetError.is(error, 'NOT_SUPPORTED')) throw error
    const skipped = countCases(options)
    options.print?.(`CUDA: NOT RUN (${skipped} cases)`)
    return { passed: 0, failed: 0, skipped, failures: [] }
  }
  try {
    return await runOn([device], options)
  } finally {
    await device.dispose()
  }
}

/** Cases that the options select. */
export function countCases(options: Pick<TableOptions, 'filter' | 'reduced'>): number {
  let count = 0
  for (const contract of CONTRACTS) for (const _ of selected(contract, options)) count++
  return count
}

function* selected(contract: OpContract, options: Pick<TableOptions, 'filter' | 'reduced'>): Generator<ContractCase> {
  for (const item of contract.cases()) {
    if (options.reduced === true && !item.quick) continue
    if (matches(options.filter, contract.op, item.name)) yield item
  }
}

async function runOn(devices: readonly Device[], options: TableOptions): Promise<TableResult> {
  const tally = new Tally(options)
  switch (options.mode ?? 'test') {
    case 'test':
      for (const contract of CONTRACTS) await runCases(contract, devices, tally)
      break
    case 'invariance':
      for (const contract of CONTRACTS) await runInvariance(contract, devices, tally)
      break
    case 'perf':
      for (const contract of CONTRACTS) await runPerf(contract, devices, tally)
      break
    case 'grad':
      await runGrad(devices, tally)
      break
    case 'support':
      support(devices, tally)
      break
  }
  return tally.result
}

async function runCases(contract: OpContract, devices: readonly Device[], tally: Tally): Promise<void> {
  const able = devices.filter((device) => device.supports(contract.op))
  const gaps = devices.length - able.length
  let batch: ContractCase[] = []
  for (const item of selected(contract, tally.options)) {
    tally.skipped += gaps
    if (able.length === 0) continue
    batch.push(item)
    if (batch.length < BATCH) continue
    await runBatch(contract, batch, able, tally)
    batch = []
  }
  await runBatch(contract, batch, able, tally)
}

/** Enqueues all cases on all devices, then looks at the results. A batch in which an op failed is run again one by one. */
async function runBatch(contract: OpContract, batch: readonly ContractCase[], devices: readonly Device[], tally: Tally): Promise<void> {
  const runs = batch.map((item) => ({ item, run: item.make(seeded(contract, item)) }))
  const together = runs.filter(({ run }) => run.fails === undefined)
  const pending = together.map(({ run }) => devices.map((device) => start(run, device)))
  const settled = await Promise.all(
    together.map(async ({ run }, i) => {
      const expected = run.expected()
      return Promise.allSettled(pending[i]!.map((p) => p.finish(expected)))
    }),
  )
  for (const [i, { item, run }] of together.entries()) {
    for (const [d, device] of devices.entries()) {
      const outcome = settled[i]![d]!
      tally.add(contract.op, item.name, device, outcome.status === 'fulfilled' ? outcome.value : await runAlone(run, device))
    }
  }
  for (const { item, run } of runs) {
    if (run.fails === undefined) continue
    for (const device of devices) tally.add(contract.op, item.name, device, await runAlone(run, device))
  }
}

export function seeded(contract: OpContract, item: { readonly name: string }): Random {
  return new Random(filterOf(contract.op, item.name))
}

/** Gradients join with the backward ops; until a contract declares some, there is nothing to compare and it says so. */
async function runGrad(devices: readonly Device[], tally: Tally): Promise<void> {
  const rows = CONTRACTS.filter((contract) => contract.grad !== undefined)
  if (rows.length === 0) tally.options.print?.('grad: no backward rows')
  for (const contract of rows) {
    for (const item of contract.grad!()) {
      if (!matches(tally.options.filter, contract.op, item.name)) continue
      const run = item.make(seeded(contract, item))
      for (const device of devices) tally.add(contract.op, item.name, device, await runAlone(run, device))
    }
  }
}

/** One line per op: the kernel each device has for it. A missing one is a failure of the manifest. */
function support(devices: readonly Device[], tally: Tally): void {
  for (const contract of CONTRACTS) {
    if (!matches(tally.options.filter, contract.op, '')) continue
    for (const device of devices) {
      const variant = device.kernels()[contract.op]
      tally.options.print?.(`${contract.op.padEnd(18)} ${labelOf(device).padEnd(16)} ${variant.padEnd(12)} ${contract.signature}`)
      tally.add(contract.op, '', device, variant === 'none' ? 'has no kernel' : null)
    }
  }
}
