import { describe, expect, it } from 'vitest'
import { failureError } from './failure.js'
import { STATUS } from './native.js'
import { OP_INDEX } from './op-table.js'

const outcome = (status: (typeof STATUS)[number]) => ({ status: STATUS.indexOf(status), op: OP_INDEX.linear, sequence: 7 })

describe('failureError', () => {
  it('names op, place and what to do for every native status', () => {
    const codes = STATUS.filter((status) => status !== 'ok').map((status) => {
      const error = failureError(outcome(status))
      expect(error.op).toBe('linear')
      expect(error.message).toContain('command 7')
      expect(error.hint).not.toBe('')
      return error.code
    })
    expect(codes).toEqual(['DISPOSED', 'NOT_SUPPORTED', 'OP_FAILED', 'FILE_NOT_FOUND', 'FILE_CHANGED', 'OUT_OF_MEMORY', 'INTERNAL', 'DEVICE_LOST'])
  })

  it('takes a status of a newer binary for an internal failure', () => {
    expect(failureError({ status: 99, op: -1, sequence: 0 }).code).toBe('INTERNAL')
  })
})
