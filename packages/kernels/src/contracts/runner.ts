/** Walks the table on devices: the one runner behind the tests, `octet verify` and the benchmarks. */
import { OctetError } from '@octet-llm/core'
import { openDevice, type Device } from '../device.js'
import { MANIFEST } from '../manifest.js'
import type { ContractCase, Expected, OpContract, Run } from './contract.js'
import { runAlone, settle, start, type Pending } from './execute.js'
import { matches } from './filter.js'
import { runInvariance } from './invariance.js'
import { runPerf } from './perf.js'
import { CONTRACTS } from './table.js'
import { Tally, labelOf, seeded, type TableOptions, type TableResult } from './tally.js'
import { forceVariant, isPortable, lastVariant, variantsOf } from './variants.js'

/** Cases in flight at once: hides the way to the worker and back. */
const BATCH = 16

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
    return { passed: 0, failed: 0, skipped, failures: [], ops: {} }
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

function* selected(contract: OpContract, { filter, reduced = false, shard = { index: 0, count: 1 } }: Pick<TableOptions, 'filter' | 'reduced' | 'shard'>): Generator<ContractCase> {
  let at = 0
  for (const item of contract.cases()) {
    if ((reduced && !item.quick) || !matches(filter, contract.op, item.name)) continue
    if (at++ % shard.count === shard.index) yield item
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
  let cases = 0
  for (const item of selected(contract, tally.options)) {
    cases++
    tally.skipped += gaps
    if (able.length === 0) continue
    batch.push(item)
    if (batch.length < BATCH) continue
    await runBatch(contract, batch, able, tally)
    batch = []
  }
  await runBatch(contract, batch, able, tally)
  if (cases === 0) return
  const counts = tally.of(contract.op)
  counts.cases += cases
  for (const device of able) for (const variant of variantsOf(device, contract.op)) counts.variants[variant] ??= 0
}

/** A case on its way through the devices: its reference is computed once. */
interface Flight {
  readonly item: ContractCase
  readonly run: Run
  expected(): Readonly<Record<string, Expected>>
}

/** Runs the cases as the devices choose, then forces every other variant that takes them, each by its name. */
async function runBatch(contract: OpContract, batch: readonly ContractCase[], devices: readonly Device[], tally: Tally): Promise<void> {
  const flights = batch.map((item): Flight => {
    const run = item.make(seeded(contract, item))
    let expected: Readonly<Record<string, Expected>> | undefined
    return { item, run, expected: () => (expected ??= run.expected()) }
  })
  const lanes = devices.map(async (device) => {
    const others = new Map<string, Flight[]>()
    await runLane(contract, flights, device, '', tally, others)
    for (const [variant, takers] of others) await runForced(contract, takers, device, variant, tally)
  })
  await Promise.all(lanes)
}

async function runForced(contract: OpContract, flights: readonly Flight[], device: Device, variant: string, tally: Tally): Promise<void> {
  forceVariant(device, contract.op, variant)
  try {
    await runLane(contract, flights, device, variant, tally)
  } finally {
    forceVariant(device, contract.op, '')
  }
}

/**
 * Enqueues all cases on the device, then looks at the results. A case that must fail runs by itself, and so does, once more,
 * each case of a batch in which an op failed. `others` collects the variants besides the first that take each case.
 */
async function runLane(contract: OpContract, flights: readonly Flight[], device: Device, forced: string, tally: Tally, others?: Map<string, Flight[]>): Promise<void> {
  const { op } = contract
  const counts = tally.of(op).variants
  const note = ({ fitting }: Pending, flight: Flight): string => {
    const variant = forced === '' ? (fitting[0] ?? '') : forced
    if (variant !== '') counts[variant] = (counts[variant] ?? 0) + 1
    if (others !== undefined) for (const other of fitting.slice(1)) others.set(other, [...(others.get(other) ?? []), flight])
    return variant
  }
  const together = flights.filter(({ run }) => run.fails === undefined).map((flight) => {
    const pending = start(flight.run, device, op)
    return { flight, pending, variant: note(pending, flight) }
  })
  const outcomes = await Promise.allSettled(together.map(({ flight, pending, variant }) => pending.finish(flight.expected(), !isPortable(variant))))
  for (const [i, { flight, variant }] of together.entries()) {
    const outcome = outcomes[i]!
    let fault = outcome.status === 'fulfilled' ? outcome.value : await runAlone(flight.run, device, !isPortable(variant))
    if (i === together.length - 1 && variant !== '' && lastVariant(device, op) !== variant) fault ??= `ran ${lastVariant(device, op)}, not ${variant}`
    tally.add(op, flight.item.name, device, fault, forced)
  }
  for (const flight of flights) {
    if (flight.run.fails === undefined) continue
    const pending = start(flight.run, device, op)
    note(pending, flight)
    tally.add(op, flight.item.name, device, await settle(flight.run, pending), forced)
  }
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

/** One line per op: the kernel each device has for it, or why it has none. One that is missing without a reason is a failure. */
function support(devices: readonly Device[], tally: Tally): void {
  for (const contract of CONTRACTS) {
    if (!matches(tally.options.filter, contract.op, '')) continue
    for (const device of devices) {
      const variant = device.kernels()[contract.op]
      tally.options.print?.(`${contract.op.padEnd(18)} ${labelOf(device).padEnd(16)} ${variant.padEnd(12)} ${contract.signature}`)
      const row = MANIFEST[device.kind][contract.op]
      if (variant !== 'none') tally.add(contract.op, '', device, null)
      else if ('gap' in row) tally.options.print?.(`${' '.repeat(19)}${row.gap}`)
      else tally.add(contract.op, '', device, 'has no kernel')
    }
  }
}
