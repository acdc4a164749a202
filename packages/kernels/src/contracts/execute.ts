/** Runs one case on one device and says what is wrong with it. */
import { OctetError } from '@octet-llm/core'
import type { Device } from '../device.js'
import type { OpName } from '../op-table.js'
import { compare, widened } from './compare.js'
import type { Expected, Run } from './contract.js'
import { decode } from './host.js'
import { Placed } from './placement.js'
import { fittingVariants } from './variants.js'

/** A case in flight on a device. */
export interface Pending {
  readonly device: Device
  /** Variants that take this call, in the order they are tried. */
  readonly fitting: readonly string[]
  /** Resolves to what is wrong, or null. `narrow`: the kernel multiplies in narrow types. Rejects when an earlier op of the queue failed. */
  finish(expected: Readonly<Record<string, Expected>>, narrow?: boolean): Promise<string | null>
}

/** Places the tensors and enqueues the op, whose variants `op` asks after. A refusal by validation is a finding, unless the case asks for it. */
export function start(run: Run, device: Device, op?: OpName): Pending {
  const inputs = new Map<string, Placed>()
  const outputs = new Map<string, Placed>()
  for (const [name, input] of Object.entries(run.inputs)) inputs.set(name, Placed.input(device, input))
  for (const [name, output] of Object.entries(run.outputs)) outputs.set(name, Placed.output(device, output))
  const placed = [...inputs.values(), ...outputs.values()]
  let refused: string | null = null
  let fitting: readonly string[] = []
  try {
    run.call(Object.fromEntries([...inputs, ...outputs].map(([name, p]) => [name, p.view])))
    if (op !== undefined) fitting = fittingVariants(device, op)
  } catch (error) {
    refused = error instanceof Error ? error.message : String(error)
  }
  const reads = refused === null ? outputsOf(outputs) : null
  const inputsStand = refused === null ? Promise.all([...inputs].map(async ([name, p]) => ((await p.untouched()) ? null : name))) : null
  for (const p of placed) p.dispose()
  return {
    device,
    fitting,
    async finish(expected, narrow = false) {
      if (reads === null || inputsStand === null) return `was refused: ${refused}`
      const [contents, changed] = await Promise.all([reads, inputsStand])
      const spoiled = changed.find((name) => name !== null)
      if (spoiled !== undefined) return `wrote to its input ${spoiled}`
      for (const [name, { content, intact }] of contents) {
        if (!intact) return `wrote outside its output ${name}`
        const spec = run.outputs[name]!
        const want = expected[name]
        if (want === undefined) return `has no reference for output ${name}`
        const fault = compare(decode(content, spec.dtype), narrow ? widened(want) : want, spec.dtype, spec.shape.at(-1) ?? 1)
        if (fault !== null) return `${name}: ${fault}`
      }
      return null
    },
  }
}

async function outputsOf(outputs: ReadonlyMap<string, Placed>): Promise<Map<string, { content: Uint8Array; intact: boolean }>> {
  const read = await Promise.all([...outputs].map(async ([name, p]) => [name, await p.read()] as const))
  return new Map(read)
}

/** A case by itself: also those that must fail, and the second look at a case whose batch failed. */
export function runAlone(run: Run, device: Device, narrow = false): Promise<string | null> {
  return settle(run, start(run, device), narrow)
}

/** What is wrong with a case that runs by itself, or null. */
export async function settle(run: Run, pending: Pending, narrow = false): Promise<string | null> {
  try {
    const fault = await pending.finish(run.fails === undefined ? run.expected() : {}, narrow)
    return run.fails === undefined ? fault : `expected ${run.fails}, received success`
  } catch (error) {
    if (run.fails !== undefined && OctetError.is(error, run.fails)) return null
    return `failed: ${error instanceof Error ? error.message : String(error)}`
  }
}
