import { describe, expect, it } from 'vitest'
import { anonymousBytes, lastLevelCacheBytes, median, spread } from './measure.js'

describe('measure', () => {
  it('takes the middle', () => {
    expect(median([3, 1, 2])).toBe(2)
    expect(median([4, 1, 2, 3])).toBe(2.5)
    expect(median([10, 9])).toBe(9.5)
    expect(spread([9, 10, 11])).toBeCloseTo(0.2)
  })

  it('sees an allocation grow the anonymous memory', () => {
    const before = anonymousBytes()
    const block = Buffer.alloc(64 * 2 ** 20, 1)
    const after = anonymousBytes()
    expect(block[123]).toBe(1)
    if (process.platform === 'linux') expect(after! - before!).toBeGreaterThan(48 * 2 ** 20)
    else expect(after).toBeNull()
  })

  it('reads a cache size that makes sense', () => {
    expect(lastLevelCacheBytes()).toBeGreaterThanOrEqual(2 ** 20)
  })
})
