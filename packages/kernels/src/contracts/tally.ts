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

export function seeded(contract: OpContract, item: { readonly name: string }): Random {
  return new Random(filterOf(contract.op, item.name))
}
