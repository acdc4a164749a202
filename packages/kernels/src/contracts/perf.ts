/** Times the table's perf rows: median and best microseconds, GB/s, TFLOP/s and the share of what the device could do at best. */
import type { Device } from '../device.js'
import type { Tensor } from '../tensor.js'
import type { OpContract, PerfCase, Run } from './contract.js'
import { matches } from './filter.js'
import { Placed } from './placement.js'
import { labelOf, seeded, type DevicePeak, type Tally } from './tally.js'

/** Input sets are rotated until they exceed this, so that no cache holds them all. */
const ROTATE_BYTES = 96 * 2 ** 20
const MOST_SETS = 32
const SAMPLES = 25
const SAMPLE_MS = 8
/** Calls of a recording, at least: starting one takes a GPU a few microseconds. */
const RECORDED_CALLS = 16

interface PerfResult {
  /** Median of the samples. */
  readonly micros: number
  /** Smallest of them: what the op costs when nothing else runs. */
  readonly best: number
}

export async function runPerf(contract: OpContract, devices: readonly Device[], tally: Tally): Promise<void> {
  if (contract.perf === undefined) return
  for (const item of contract.perf()) {
    if (!matches(tally.options.filter, contract.op, item.name)) continue
    for (const device of devices) {
      if (!device.supports(contract.op)) continue
      const run = item.make(seeded(contract, item))
      const result = await time(run, item, device)
      tally.options.print?.(line(contract, item, device, result, tally.options.peak))
      tally.add(contract.op, item.name, device, null)
    }
  }
}

async function time(run: Run, item: PerfCase, device: Device): Promise<PerfResult> {
  const sets = Math.min(MOST_SETS, Math.max(1, Math.ceil(ROTATE_BYTES / Math.max(1, item.bytes))))
  const placed: Placed[] = []
  const arguments_: Record<string, Tensor>[] = []
  for (let s = 0; s < sets; s++) {
    const tensors: Record<string, Tensor> = {}
    for (const [name, input] of Object.entries(run.inputs)) tensors[name] = keep(placed, Placed.input(device, input))
    for (const [name, output] of Object.entries(run.outputs)) tensors[name] = keep(placed, Placed.output(device, output))
    arguments_.push(tensors)
  }
  // On a GPU from a recording, as in a model: the host would be slower than most ops.
  const recorded = device.kind === 'cpu' ? 1 : Math.max(sets, RECORDED_CALLS)
  let next = 0
  const call = (): void => run.call(arguments_[next++ % sets]!)
  const graph = recorded === 1 ? null : device.queue.capture(() => {
    for (let i = 0; i < recorded; i++) call()
  })
  try {
    /** Milliseconds of `count` calls, or recordings of calls. */
    const once = async (count: number): Promise<number> => {
      const begin = performance.now()
      for (let i = 0; i < count; i++) {
        if (graph === null) call()
        else graph.replay()
      }
      await device.synchronize()
      return performance.now() - begin
    }
    await once(graph === null ? sets : 1)
    const warm = graph === null ? 8 : 1
    const single = Math.max((await once(warm)) / warm, 1e-3)
    const count = Math.max(1, Math.min(2000, Math.round(SAMPLE_MS / single)))
    const samples: number[] = []
    for (let s = 0; s < SAMPLES; s++) samples.push(((await once(count)) / count / recorded) * 1e3)
    samples.sort((a, b) => a - b)
    const micros = samples[SAMPLES >> 1]!
    return { micros, best: samples[0]! }
  } finally {
    await graph?.dispose()
    for (const p of placed) p.dispose()
  }
}

function keep(placed: Placed[], p: Placed): Tensor {
  placed.push(p)
  return p.view
}

function line(contract: OpContract, item: PerfCase, device: Device, { micros, best }: PerfResult, peak: DevicePeak | undefined): string {
  const gigabytes = item.bytes / micros / 1e3
  const teraflops = item.flops / micros / 1e6
  const columns = [
    contract.op.padEnd(16),
    item.name.padEnd(44),
    labelOf(device).padEnd(15),
    `${micros.toFixed(1).padStart(9)} us`,
    `(best ${best.toFixed(1).padStart(9)})`,
    `${gigabytes.toFixed(1).padStart(7)} GB/s`,
    `${teraflops.toFixed(4).padStart(8)} TFLOP/s`,
  ]
  if (peak !== undefined) {
    const floor = Math.max(item.bytes / peak.gigabytesPerSecond / 1e3, item.flops / peak.teraflops / 1e6)
    columns.push(`${((floor / micros) * 100).toFixed(0).padStart(4)}% of floor`)
  }
  return columns.join(' ')
}
