import { OctetError, type ErrorCode } from '@octet-llm/core'
import type { Outcome } from './completions.js'
import { STATUS } from './native.js'
import { OP_NAMES } from './op-table.js'

type StatusName = (typeof STATUS)[number]

const MEANING: Readonly<Record<Exclude<StatusName, 'ok'>, { code: ErrorCode; text: string; hint: string }>> = {
  cancelled: { code: 'DISPOSED', text: 'was cancelled because its device was disposed', hint: 'await pending work before dispose()' },
  unsupported: { code: 'NOT_SUPPORTED', text: 'has no kernel for these arguments on this device', hint: 'see the support manifest of @octet-llm/kernels' },
  bad_index: { code: 'OP_FAILED', text: 'read an index outside its table', hint: 'check the ids, rows, positions or pages given to it' },
  io_error: { code: 'FILE_NOT_FOUND', text: 'could not read its file', hint: 'check the disk and that the file is still open' },
  short_read: { code: 'FILE_CHANGED', text: 'reached the end of its file early', hint: 'the file became shorter while it was read: download or copy it again' },
  out_of_memory: { code: 'OUT_OF_MEMORY', text: 'found no memory for its scratch', hint: 'free memory or use smaller batches' },
  device_lost: { code: 'DEVICE_LOST', text: 'failed on the device, which refuses further work', hint: 'dispose the device and open it again, in a new process if that fails' },
  internal: { code: 'INTERNAL', text: 'failed inside its kernel', hint: 'please report it' },
}

/** Whether the device gave up its context: nothing runs on it any more. */
export function isLost(outcome: Outcome): boolean {
  return STATUS[outcome.status] === 'device_lost'
}

/** What a lost device answers to everything. */
export function lostDevice(op: string): OctetError {
  return new OctetError('DEVICE_LOST', { op, argument: 'device', expected: 'a device that runs', received: 'one that was lost to an earlier fault', hint: MEANING.device_lost.hint })
}

/** The error of a deferred failure. `stack` is where the op was enqueued, when OCTET_DEBUG=stacks kept it. */
export function failureError(outcome: Outcome, stack?: string, opName?: string): OctetError {
  const status = STATUS[outcome.status] ?? 'internal'
  const { code, text, hint } = MEANING[status === 'ok' ? 'internal' : status]
  const op = opName ?? OP_NAMES[outcome.op] ?? 'queue'
  return new OctetError(code, {
    op,
    message: `[${op}] ${text} (command ${outcome.sequence} of its queue); ${hint}`,
    received: status,
    hint,
    ...(stack === undefined ? {} : { cause: new Error(`enqueued here:\n${stack}`) }),
  })
}

/** Stacks are captured at enqueue only when asked for: it costs microseconds an op. */
export const captureStacks: boolean = (process.env['OCTET_DEBUG'] ?? '').split(',').includes('stacks')
