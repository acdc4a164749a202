import { philoxUniform } from '@octet-llm/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { argmax, logSoftmax, maxScore, sampleInverseCdf, sampleToken, sampleWithoutReplacement, softmax, topIndices } from './index.js'

const f32 = (values: readonly number[]): Float32Array => Float32Array.from(values)
const finite = fc.array(fc.integer({ min: -64, max: 64 }).map((i) => i / 8), { minLength: 1, maxLength: 40 })

describe('argmax', () => {
  it('gives ties to the lowest index and never picks NaN unless all are', () => {
    expect(argmax(f32([1, 3, 3, 2]))).toBe(1)
    expect(argmax(f32([NaN, 1, NaN, 2]))).toBe(3)
    expect(argmax(f32([NaN, -Infinity]))).toBe(1)
    expect(argmax(f32([NaN, NaN]))).toBe(0)
    expect(argmax(f32([-Infinity, -Infinity]))).toBe(0)
  })

  it('has no largest score where all are banned', () => {
    expect(maxScore(f32([NaN, -Infinity]))).toBe(-Infinity)
  })
})

describe('softmax', () => {
  it('sums to one, also far from zero, and its log is logSoftmax', () => {
    fc.assert(fc.property(finite, fc.constantFrom(0, 1e4, -1e4), (values, shift) => {
      const scores = f32(values.map((v) => v + shift))
      const probs = softmax(scores)
      expect(probs.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5)
      logSoftmax(scores).forEach((lp, i) => expect(Math.exp(lp)).toBeCloseTo(probs[i]!, 6))
    }))
  })

  it('gives a banned token exactly zero, and works in place', () => {
    const scores = f32([0, -Infinity, 0])
    expect(Array.from(softmax(scores))).toEqual([0.5, 0, 0.5])
    expect(logSoftmax(scores, scores)).toBe(scores)
    expect(scores[1]).toBe(-Infinity)
    expect(scores[0]).toBeCloseTo(-Math.LN2, 7)
  })
})

describe('inverse-CDF draws', () => {
  const quarter = f32([Math.log(1), Math.log(2), -Infinity, Math.log(1)])

  it('takes the lowest index whose cumulative probability exceeds the number', () => {
    expect([0, 0.2499, 0.2501, 0.7499, 0.7501, 0.9999999].map((u) => sampleInverseCdf(quarter, u))).toEqual([0, 0, 1, 1, 3, 3])
  })

  it('never takes a token of probability zero', () => {
    fc.assert(fc.property(finite, fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.integer({ min: 0, max: 39 }), (values, u, banned) => {
      const scores = f32(values)
      scores[banned % scores.length] = -Infinity
      if (scores.length > 1) expect(sampleInverseCdf(scores, u)).not.toBe(banned % scores.length)
    }))
    expect(sampleInverseCdf(f32([-1000, 0, -1000]), 0)).toBe(1)
    expect(sampleInverseCdf(f32([0, -1000]), 0.99999999)).toBe(0)
  })

  it('refuses scores without a token', () => {
    for (const scores of [f32([-Infinity]), f32([NaN, NaN])]) {
      expect(() => sampleInverseCdf(scores, 0.5)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'scores' }) as Error)
    }
  })

  it('follows the distribution over positions and over sequences', () => {
    const probs = [0.1, 0.4, 0.4, 0.1]
    const scores = f32(probs.map(Math.log))
    const n = 20000
    for (const key of [(i: number) => ({ seed: 7, sequence: 3, position: i }), (i: number) => ({ seed: 7, sequence: i, position: 3 })]) {
      const counts = [0, 0, 0, 0]
      for (let i = 0; i < n; i++) counts[sampleToken(scores, key(i))]! += 1
      // Five standard deviations of a binomial count.
      counts.forEach((count, i) => expect(Math.abs(count - n * probs[i]!)).toBeLessThan(5 * Math.sqrt(n * probs[i]! * (1 - probs[i]!))))
    }
  })

  it('depends on seed, sequence and position, each', () => {
    const scores = new Float32Array(1000)
    const at = (seed: number, sequence: number, position: number): number => sampleToken(scores, { seed, sequence, position })
    expect(at(1, 2, 3)).toBe(at(1, 2, 3))
    expect(at(1, 2, 3)).toBe(Math.floor(philoxUniform(1, 2, 3) * 1000))
    expect(new Set([at(1, 2, 3), at(2, 2, 3), at(1, 3, 3), at(1, 2, 4), at(2 ** 40 + 1, 2, 3)]).size).toBe(5)
  })
})

describe('draws without replacement', () => {
  it('gives different indices, the likely ones before the impossible, and leaves the scores alone', () => {
    fc.assert(fc.property(finite, fc.integer({ min: 1, max: 12 }), fc.integer({ min: 0, max: 1000 }), (values, count, seed) => {
      const scores = f32(values)
      scores[0] = -Infinity
      const before = Array.from(scores)
      const drawn = sampleWithoutReplacement(scores, count, (draw) => philoxUniform(seed, 0, 0, draw))
      expect(drawn).toHaveLength(Math.min(count, scores.length))
      expect(new Set(drawn).size).toBe(drawn.length)
      if (drawn.includes(0)) expect(drawn.indexOf(0)).toBe(scores.length - 1)
      expect(Array.from(scores)).toEqual(before)
    }))
  })

  it('draws the second from what the first left', () => {
    const scores = f32([0.5, 0.3, 0.2].map(Math.log))
    const n = 20000
    let both = 0
    for (let i = 0; i < n; i++) {
      const drawn = sampleWithoutReplacement(scores, 2, (draw) => philoxUniform(1, 0, i, draw))
      if (drawn[0] === 0 && drawn[1] === 1) both += 1
    }
    const p = 0.5 * (0.3 / 0.5)
    expect(Math.abs(both - n * p)).toBeLessThan(5 * Math.sqrt(n * p * (1 - p)))
  })
})

describe('topIndices', () => {
  it('is the head of a stable descending sort', () => {
    const any = fc.array(fc.oneof(fc.integer({ min: -5, max: 5 }), fc.constant(-Infinity)), { maxLength: 40 })
    fc.assert(fc.property(any, fc.integer({ min: 0, max: 45 }), (values, count) => {
      const want = values.map((_, i) => i).sort((a, b) => (values[a] === values[b] ? a - b : values[b]! - values[a]!)).slice(0, count)
      expect(topIndices(f32(values), count)).toEqual(want)
    }), { numRuns: 500 })
  })

  it('leaves NaN out', () => {
    expect(topIndices(f32([NaN, 1, NaN, 2]), 3)).toEqual([3, 1])
  })
})
