/** Float32 rows to the bit: the same row by several ways must have the same bytes. */
import { openDevice, type Device } from '../device.js'
import type { InvarianceCase, OpContract, Variant } from './contract.js'
import { filterOf, matches } from './filter.js'
import { Random } from './host.js'
import type { Tally } from './runner.js'

export async function runInvariance(contract: OpContract, devices: readonly Device[], tally: Tally): Promise<void> {
  if (contract.invariance === undefined) return
  for (const device of devices) {
    if (!device.supports(contract.op)) continue
    const byThreads = new Map<number, Device>()
    try {
      for (const item of contract.invariance()) {
        if (tally.options.reduced === true && !item.quick) continue
        if (!matches(tally.options.filter, contract.op, item.name)) continue
        tally.add(contract.op, item.name, device, await compareVariants(contract, item, device, byThreads))
      }
    } finally {
      for (const other of byThreads.values()) await other.dispose()
    }
  }
}

async function compareVariants(contract: OpContract, item: InvarianceCase, device: Device, byThreads: Map<number, Device>): Promise<string | null> {
  const variants = item.variants(new Random(filterOf(contract.op, item.name)))
  const seen = new Map<string, { bytes: Uint8Array; label: string }>()
  let shared = 0
  for (const variant of variants) {
    const rows = await variant.rows(await deviceFor(variant, device, byThreads))
    for (const [row, bytes] of rows) {
      const first = seen.get(row)
      if (first === undefined) seen.set(row, { bytes, label: variant.label })
      else if (Buffer.compare(first.bytes, bytes) !== 0) return `${row} differs between ${first.label} and ${variant.label}`
      else shared++
    }
  }
  return shared === 0 ? 'compares nothing: no row is made in two ways' : null
}

async function deviceFor(variant: Variant, device: Device, byThreads: Map<number, Device>): Promise<Device> {
  const threads = variant.threads ?? device.threads
  if (threads === device.threads || device.kind !== 'cpu') return device
  let other = byThreads.get(threads)
  if (other === undefined) {
    other = await openDevice('cpu', { isa: device.isa, threads })
    byThreads.set(threads, other)
  }
  return other
}
