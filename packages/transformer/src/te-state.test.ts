import { describe, expect, it } from 'vitest'

import { interleavedQkvRows } from './te-state.js'

describe('interleavedQkvRows', () => {
  it('puts each KV group’s query heads before its key and value', () => {
    // 4 query heads 0-3, 2 key heads 4-5, 2 value heads 6-7; two rows a head.
    const heads = [0, 1, 4, 6, 2, 3, 5, 7]
    expect([...interleavedQkvRows(4, 2, 2)]).toEqual(heads.flatMap((h) => [2 * h, 2 * h + 1]))
  })

  it('is q, k, v by head for MHA and one run for MQA', () => {
    expect([...interleavedQkvRows(2, 2, 1)]).toEqual([0, 2, 4, 1, 3, 5])
    expect([...interleavedQkvRows(3, 1, 1)]).toEqual([0, 1, 2, 3, 4])
  })
})
