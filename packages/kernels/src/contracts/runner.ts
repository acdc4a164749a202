/** Walks the table on devices: the one runner behind the tests, `octet verify` and the benchmarks. */
import { OctetError } from '@octet-llm/core'
import { openDevice, type Device } from '../device.js'
import type { ContractCase, OpContract } from './contract.js'
import { runAlone, start } from './execute.js'
import { matches } from './filter.js'
import { runInvariance } from './invariance.js'
import { runPerf } from './perf.js'
import { CONTRACTS } from './table.js'
import { Tally, labelOf, seeded, type TableOptions, type TableResult } from './tally.js'

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
