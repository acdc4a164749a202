import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OctetError } from '@octet-llm/core'
import { parseInputIds } from './input-ids.js'

describe('parseInputIds', () => {
  it('reads what JSON.stringify writes', () => {
    const rows = fc.array(fc.array(fc.nat(0x7fffffff), { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 5 })
    fc.assert(fc.property(rows, fc.nat(3), (inputIds, space) => {
      expect(parseInputIds(JSON.stringify({ input_ids: inputIds }, null, space))).toEqual({ inputIds })
    }))
  })

  it('reads a mask in either order', () => {
    const wanted = { inputIds: [[0, 5], [6, 7]], attentionMask: [[0, 1], [1, 1]] }
    expect(parseInputIds('{"input_ids":[[0,5],[6,7]],"attention_mask":[[0,1],[1,1]]}')).toEqual(wanted)
    expect(parseInputIds(' {"attention_mask":[[0,1],[1,1]] , "input_ids":[[0,5],\n[6,7]]}\n')).toEqual(wanted)
  })

  it.each([
    ['', 'the end of the file'],
    ['[]', '"["'],
    ['{}', 'a member "input_ids"'],
    ['{"input_ids":[]}', '"]"'],
    ['{"input_ids":[[]]}', 'a whole number'],
    ['{"input_ids":[[1,]]}', 'a whole number'],
    ['{"input_ids":[[1.5]]}', '"."'],
    ['{"input_ids":[[-1]]}', 'a whole number'],
    ['{"input_ids":[[01]]}', 'a whole number'],
    ['{"input_ids":[["1"]]}', 'a whole number'],
    ['{"input_ids":[[2147483648]]}', 'below 2^31'],
    ['{"input_ids":[1]}', '"1"'],
    ['{"input_ids":[[1]]', 'the end of the file'],
    ['{"input_ids":[[1]]} x', 'nothing after'],
    ['{"input_ids":[[1]],"input_ids":[[2]]}', 'twice'],
    ['{"input_ids":[[1]],"labels":[[2]]}', 'only the members'],
    ['{"__proto__":[[1]]}', 'only the members'],
    ['{"input_ids":[[1]],"attention_mask":[[2]]}', '0 or 1'],
    ['{"input_ids":[[1]],"attention_mask":[[1],[1]]}', '1 rows'],
    ['{"input_ids":[[1,2]],"attention_mask":[[1]]}', '2 numbers in row 0'],
    ['{"input_ids":[[1,2]],"attention_mask":[[0,0]]}', 'a row of pads'],
  ])('refuses %s', (text, part) => {
    let error: unknown
    try {
      parseInputIds(text, 'ids.json')
    } catch (thrown) {
      error = thrown
    }
    expect(OctetError.is(error, 'INVALID_JSON')).toBe(true)
    expect((error as Error).message).toContain('[--input-ids] ids.json: ')
    expect((error as Error).message).toContain(part)
  })

  it('answers any text with ids or one INVALID_JSON', () => {
    const pieces = fc.array(fc.constantFrom('{', '}', '[', ']', ',', ':', '"input_ids"', '"attention_mask"', '1', '0', ' ', '-', 'null', '"'), { maxLength: 24 })
    fc.assert(fc.property(pieces, (parts) => {
      try {
        const { inputIds } = parseInputIds(parts.join(''))
        expect(JSON.parse(parts.join('')).input_ids).toEqual(inputIds)
      } catch (error) {
        if (!OctetError.is(error, 'INVALID_JSON')) throw error
      }
    }), { numRuns: 2000 })
  })
})
