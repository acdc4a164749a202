import { OctetError } from '@octet-llm/core'
import type { Device } from './device.js'
import { OP_INDEX, type OpName } from './op-table.js'
import type { Queue } from './queue.js'
import { SCRATCH } from './runtime.js'
import type { Tensor } from './tensor.js'

/** The queue an op runs on: the one given, else the one being captured, else the device's own. */
export function queueFor(op: string, tensor: Tensor, queue: Queue | undefined): Queue {
  const device = tensor.device
  const capturing = device.capturing?.queue
  const chosen = queue ?? capturing ?? device.queue
  chosen.check(op)
  if (chosen.device !== device) {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: 'queue', expected: `a queue of the tensors' device ${device.name}`, received: 'a queue of another device' })
  }
  if (capturing !== undefined && chosen !== capturing) {
    throw new OctetError('INVALID_ARGUMENT', { op, argument: 'queue', expected: 'the queue being captured', received: 'another queue' })
  }
  return chosen
}

/** @throws OctetError `NOT_SUPPORTED` when the device has no kernel for the op. */
export function checkSupport(device: Device, op: OpName): void {
  if (device.supports(op)) return
  throw new OctetError('NOT_SUPPORTED', { op, expected: `a kernel of ${device.name} (${device.isa})`, received: 'none', hint: 'MANIFEST tells what each backend lacks, and why' })
}

/**
 * Hands one validated op to the native side: writes the scratch (layout in native/runtime/backend.h) and makes one call.
 * An absent optional tensor is null.
 *
 * @throws OctetError `NOT_SUPPORTED` when this device's level has no kernel; `INVALID_ARGUMENT` for a tensor of another
 * device.
 */
export function enqueue(queue: Queue, op: OpName, tensors: readonly (Tensor | null)[], attrs: readonly number[], ticket = 0): void {
  const { device } = queue
  checkSupport(device, op)
  const { scratch, native } = device.runtime
  const capturing = device.capturing
  scratch[0] = OP_INDEX[op]
  scratch[1] = tensors.length
  scratch[2] = attrs.length
  let at: number = SCRATCH.header
  for (const tensor of tensors) {
    if (tensor === null) {
      scratch.fill(0, at, at + SCRATCH.tensor)
    } else {
      if (tensor.device !== device) {
        throw new OctetError('INVALID_ARGUMENT', { op, expected: `tensors of one device (${device.name})`, received: `a tensor of another ${tensor.device.name} device` })
      }
      tensor.storage.touch(queue)
      capturing?.use(tensor.storage)
      tensor.encode(scratch, at)
    }
    at += SCRATCH.tensor
  }
  for (const attr of attrs) scratch[at++] = attr
  native.enqueue(queue.id, ticket)
  queue.count(capturing !== null)
}
