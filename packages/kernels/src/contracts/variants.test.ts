import { beforeEach, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '../device.js'
import { runTable } from './runner.js'
import { mergeResults, unreached, type TableResult } from './tally.js'

/** A CPU device that plays a GPU with two kernels for `add`: `even` takes the calls whose output has an even length. */
class Chooser {
  readonly ran: string[] = []
  forced = ''
  constructor(readonly cpu: Device) {}

  get device(): Device {
    const { runtime } = this.cpu
    const even = (): boolean => runtime.scratch[3 + 2 * 9 + 3 + 1]! % 2 === 0
    const fitting = (): string[] => (even() ? ['even', 'portable'] : ['portable'])
    const enqueue: typeof runtime.native.enqueue = (queue, ticket) => {
      this.ran.push(this.forced === '' ? fitting()[0]! : this.forced)
      runtime.native.enqueue(queue, ticket)
    }
    const variants = Array.from({ length: 64 }, (_, op) => (op === 3 ? ['even', 'never', 'portable'] : ['portable']))
    const played: Readonly<Record<string, unknown>> = {
      describe: () => ({ ...runtime.native.describe(), variants }),
      enqueue,
      fitting,
      forceVariant: (_level: number, _op: number, variant: string) => void (this.forced = variant),
      lastVariant: () => this.ran.at(-1) ?? '',
    }
    // Not over the addon itself, whose functions may not be replaced.
    const native = new Proxy({} as typeof runtime.native, { get: (_, name) => played[String(name)] ?? Reflect.get(runtime.native, name) })
    Object.defineProperty(this.cpu, 'kind', { value: 'cuda', configurable: true })
    Object.defineProperty(this.cpu, 'runtime', { value: { ...runtime, native }, configurable: true })
    return this.cpu
  }
}

describe('the runner on a device with several kernels', () => {
  let chooser: Chooser
  let result: TableResult
  beforeEach(async () => {
    chooser = new Chooser(await openDevice('cpu', { threads: 1 }))
    result = await runTable({ device: chooser.device, filter: 'add', reduced: true })
    await chooser.cpu.dispose()
  })

  it('runs each case as the device chooses, then every other kernel that takes it, by name', () => {
    const { cases, variants, failed } = result.ops['add']!
    expect(failed).toBe(0)
    expect(variants['portable']).toBe(cases)
    expect(variants['even']).toBeGreaterThan(0)
    expect(variants['even']).toBeLessThan(cases)
    expect(result.passed).toBe(cases + variants['even']!)
    expect(chooser.ran.filter((variant) => variant === 'even')).toHaveLength(variants['even']!)
    expect(chooser.ran.filter((variant) => variant === 'portable')).toHaveLength(cases)
    expect(chooser.forced).toBe('')
  })

  it('names the kernel that no case reaches', () => {
    expect(unreached(result)).toEqual(['add never'])
  })
})

it('shards cover every case once, and their results add up', async () => {
  const device = await openDevice('cpu', { threads: 1 })
  const run = (shard?: { index: number; count: number }) => runTable({ device, filter: 'gatherRows', reduced: true, ...(shard && { shard }) })
  const whole = await run()
  const shards = await Promise.all([0, 1, 2].map((index) => run({ index, count: 3 })))
  expect(mergeResults(shards)).toEqual(whole)
  for (const shard of shards) expect(shard.passed).toBeGreaterThan(whole.passed / 4)
  const fault = { op: 'add', name: '', device: 'x', fault: 'wrong', filter: 'add' }
  const failing: TableResult = { passed: 1, failed: 1, skipped: 2, failures: [fault], ops: { add: { cases: 2, failed: 1, variants: { portable: 2, other: 0 } } } }
  expect(mergeResults([failing, failing])).toEqual({ passed: 2, failed: 2, skipped: 4, failures: [fault, fault], ops: { add: { cases: 4, failed: 2, variants: { portable: 4, other: 0 } } } })
  await device.dispose()
})
