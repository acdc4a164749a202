/** The kernels that a device chooses among for an op, and how the runner makes it take one by name. */
import type { Device } from '../device.js'
import type { CudaBinding } from '../native.js'
import { OP_INDEX, type OpName } from '../op-table.js'

/** The op's variants on the device in the order they are tried; none on the CPU, where the device is one level. */
export function variantsOf(device: Device, op: OpName): readonly string[] {
  return device.kind === 'cpu' ? [] : (device.runtime.native.describe().variants?.[OP_INDEX[op]] ?? [])
}

/** Variants that would take the op call that this thread enqueued last; none when that was another op. */
export function fittingVariants(device: Device, op: OpName): readonly string[] {
  const { native, scratch } = device.runtime
  if (device.kind === 'cpu' || scratch[0] !== OP_INDEX[op]) return []
  return (native as CudaBinding).fitting(device.level, scratch)
}

/** From here on the op runs this variant on the device, or its own choice again for ''. Nothing may be in flight. */
export function forceVariant(device: Device, op: OpName, variant: string): void {
  if (device.kind === 'cuda') (device.runtime.native as CudaBinding).forceVariant(device.level, OP_INDEX[op], variant)
}

/** The variant of the op that ran last on the device. */
export function lastVariant(device: Device, op: OpName): string {
  return (device.runtime.native as CudaBinding).lastVariant(device.level, OP_INDEX[op])
}

/** Whether a kernel multiplies in float32 as the portable ones do, whatever its inputs are stored in. */
export function isPortable(variant: string): boolean {
  return variant === '' || variant === 'portable'
}
