/** Float32 rows to the bit: the same row by several ways must have the same bytes. */
import { openDevice, type Device, type Isa } from '../device.js'
import type { OpContract, Variant } from './contract.js'
import { filterOf, matches } from './filter.js'
import { Random } from './host.js'
import type { Tally } from './tally.js'

export async function runInvariance(contract: OpContract, devices: readonly Device[], tally: Tally): Promise<void> {
  if (contract.invariance === undefined) return
  const able = devices.filter((device) => device.supports(contract.op))
  const others = new Map(able.map((device) => [device, new Map<number, Device>()]))
  try {
    for (const item of contract.invariance()) {
      if (tally.options.reduced === true && !item.quick) continue
      if (!matches(tally.options.filter, contract.op, item.name)) continue
      const variants = item.variants(new Random(filterOf(contract.op, item.name)))
      for (const device of able) tally.add(contract.op, item.name, device, await compareVariants(variants, device, others.get(device)!))
    }
  } finally {
    for (const byThreads of others.values()) for (const other of byThreads.values()) await other.dispose()
  }
}

async function compareVariants(variants: readonly Variant[], device: Device, byThreads: Map<number, Device>): Promise<string | null> {
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
    other = await openDevice('cpu', { isa: device.isa as Isa, threads })
    byThreads.set(threads, other)
  }
  return other
}
