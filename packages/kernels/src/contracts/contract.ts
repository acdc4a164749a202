/**
 * One op, one contract: what it computes (a float64 reference), on which shapes and dtypes, how far a kernel may be from
 * it and why, how many bytes and operations it costs, and the cases that show it. Tests, `octet verify`, benchmarks and
 * support lists all read this table; a backend without the table's rows passing is not a backend.
 */
import type { ErrorCode } from '@octet-llm/core'
import type { Device } from '../device.js'
import type { OpName } from '../op-table.js'
import type { Tensor } from '../tensor.js'
import type { HostTensor, Random } from './host.js'

/**
 * How a tensor lies in memory. `plain`: rows without gaps, 64-byte aligned up to its first row. `padded`: a slice of a
 * wider tensor. `offset`: a slice that starts one element after an aligned address, with an odd row stride.
 */
export type Placement = 'plain' | 'padded' | 'offset'
export const PLACEMENTS: readonly Placement[] = ['plain', 'padded', 'offset']

export interface Input {
  readonly host: HostTensor
  readonly placement?: Placement
}

export interface Output {
  readonly dtype: HostTensor['dtype']
  readonly shape: readonly number[]
  readonly placement?: Placement
  /** What it holds before the op, for outputs that are also read or only partly written. Default: all bits set. */
  readonly initial?: HostTensor
}

/** What an output must hold. NaN must be NaN; infinities must be equal. */
export interface Expected {
  /** Row-major reference in float64. Without `error` it is rounded to the output's dtype already, and the output must be
   * exactly this, the sign of zero included. */
  readonly values: Float64Array
  /**
   * Bound of the kernel's error before its last rounding, one number or one per element: |out - value| <= error + half
   * an ulp of the output's dtype. Each contract derives it.
   */
  readonly error?: Float64Array | number
  /**
   * Largest relative 2-norm error of a row, and of the whole, beyond the output's own rounding, in units of 2^-24. Far
   * below the worst case that `error` admits: it catches one wrong row, or a systematic loss, under a wide bound.
   */
  readonly rms?: number
  /**
   * More error, for kernels that multiply in narrower types than float32: tensor cores, as the contract that has it says.
   * Portable kernels are held to `error` alone.
   */
  readonly narrow?: {
    /** Added to `error`. */
    readonly error: Float64Array
    /** Added to `rms`. */
    readonly rms: number
    /** Elements that may be NaN: a weight of 0 meets a NaN that the kernel multiplies all the same. */
    readonly maybeNaN?: (index: number) => boolean
  }
  /** Elements that may be NaN, whatever the kernel. */
  readonly maybeNaN?: (index: number) => boolean
  /** Several results are right (a draw next to the edge of two tokens): decides instead of `values`. */
  readonly accepts?: (index: number, value: number) => boolean
}

export interface Run {
  readonly inputs: Readonly<Record<string, Input>>
  readonly outputs: Readonly<Record<string, Output>>
  /** Enqueues the op on tensors of the names above. */
  call(tensors: Readonly<Record<string, Tensor>>): void
  expected(): Readonly<Record<string, Expected>>
  /** The next sync must reject with this code instead. */
  readonly fails?: ErrorCode
}

export interface ContractCase {
  /** Words `axis=value`, unique within the op. With the op's name before it, it is the case's own filter. */
  readonly name: string
  /** Belongs to the reduced table of the fast tests. */
  readonly quick: boolean
  /** `random` is seeded by op and name, so a filtered run sees the same numbers. */
  make(random: Random): Run
}

/** Lengths of a problem's axes, by the letters of the signature. */
export type Axes = Readonly<Record<string, number>>

export interface PerfCase {
  readonly name: string
  /** Bytes that must move between memory and cores. */
  readonly bytes: number
  /** Multiplications and additions. */
  readonly flops: number
  make(random: Random): Run
}

/** One way to compute the same rows: another batch, split, padding, page size or thread count. */
export interface Variant {
  readonly label: string
  /** Threads of the device it runs on. Default: the device's own. */
  readonly threads?: number
  /** Bytes of every row by its name; rows of the same name must be equal to the bit in all variants. */
  rows(device: Device): Promise<ReadonlyMap<string, Uint8Array>>
}
export interface InvarianceCase {
  readonly name: string
  readonly quick: boolean
  variants(random: Random): readonly Variant[]
}

export interface OpContract {
  readonly op: OpName
  /** Shapes with axis letters and dtypes, as the op's documentation has them. */
  readonly signature: string
  /** The bound in words; its derivation stands in the contract's source. */
  readonly tolerance: string
  /** Bytes moved at least once for the given axes and the first dtype of the signature. */
  bytes(axes: Axes): number
  flops(axes: Axes): number
  cases(): Iterable<ContractCase>
  perf?(): Iterable<PerfCase>
  invariance?(): Iterable<InvarianceCase>
  /** Cases of the analytic gradient against finite differences, once the op has a backward. */
  grad?(): Iterable<ContractCase>
}
