/** What a run of the table takes and gives, and the tally that its modes share. */
import type { Device } from '../device.js'
import type { OpContract } from './contract.js'
import { filterOf } from './filter.js'
import { Random } from './host.js'

/** Measured peaks of a device. */
export interface DevicePeak {
  readonly gigabytesPerSecond: number
  readonly teraflops: number
}

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
  /** Of `test`: every `count`th case alone, from `index` on, so that several threads share the table. */
  readonly shard?: { readonly index: number; readonly count: number }
}

export interface CaseResult {
  readonly op: string
  readonly name: string
  /** Device and level, e.g. `cpu/avx2`, and a variant that was forced, e.g. `cuda:0/sm_90/portable`. */
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
  /** Of `test`, by op: cases, and how many of them each kernel variant ran (no variants on the CPU). */
  readonly ops: Readonly<Record<string, OpTally>>
}

export interface OpTally {
  readonly cases: number
  readonly failed: number
  readonly variants: Readonly<Record<string, number>>
}

/** The sum of what the shards of one run gave. */
export function mergeResults(results: readonly TableResult[]): TableResult {
  const sum = (pick: (result: TableResult) => number): number => results.reduce((total, result) => total + pick(result), 0)
  const ops: Record<string, { cases: number; failed: number; variants: Record<string, number> }> = {}
  for (const result of results) {
    for (const [op, tally] of Object.entries(result.ops)) {
      const to = (ops[op] ??= { cases: 0, failed: 0, variants: {} })
      to.cases += tally.cases
      to.failed += tally.failed
      for (const [variant, cases] of Object.entries(tally.variants)) to.variants[variant] = (to.variants[variant] ?? 0) + cases
    }
  }
  return { passed: sum((r) => r.passed), failed: sum((r) => r.failed), skipped: sum((r) => r.skipped), failures: results.flatMap((r) => r.failures), ops }
}

/** Variants of the table that no case reached, as `op variant`: a kernel that nothing has held against its reference. */
export function unreached(result: TableResult): string[] {
  return Object.entries(result.ops).flatMap(([op, { variants }]) => Object.entries(variants).flatMap(([variant, cases]) => (cases === 0 ? [`${op} ${variant}`] : [])))
}

/** Collects results and reports them. */
export class Tally {
  passed = 0
  skipped = 0
  readonly failures: CaseResult[] = []
  readonly #ops = new Map<string, { cases: number; failed: number; variants: Record<string, number> }>()
  constructor(readonly options: TableOptions) {}

  /** `forced`: the variant that was forced, if one was. */
  add(op: string, name: string, device: Device, fault: string | null, forced = ''): void {
    const result = { op, name, device: forced === '' ? labelOf(device) : `${labelOf(device)}/${forced}`, fault, filter: filterOf(op, name) }
    if (fault === null) this.passed++
    else {
      this.failures.push(result)
      this.of(op).failed++
    }
    this.options.onCase?.(result)
  }
  /** The op's own counts. */
  of(op: string): { cases: number; failed: number; variants: Record<string, number> } {
    let tally = this.#ops.get(op)
    if (tally === undefined) this.#ops.set(op, (tally = { cases: 0, failed: 0, variants: {} }))
    return tally
  }
  get result(): TableResult {
    return { passed: this.passed, failed: this.failures.length, skipped: this.skipped, failures: this.failures, ops: Object.fromEntries(this.#ops) }
  }
}

export function labelOf(device: Device): string {
  return `${device.name}/${device.isa}`
}

export function seeded(contract: OpContract, item: { readonly name: string }): Random {
  return new Random(filterOf(contract.op, item.name))
}
