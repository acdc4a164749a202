import { describe, expect, it } from 'vitest'

import { fixedRopeLength, ropeFrequencies, ropeReach, ropeTables, type RopeScaling } from './rope.js'

/** The same formulas in plain float64, written from the papers' definitions rather than in Hugging Face's order. */
function exact(dim: number, base: number, s: RopeScaling, maxPos = Infinity, length = 0): number[] {
  const inv = (theta: number) => Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim))
  if (s.type === 'linear') return inv(base).map((x) => x / s.factor)
  if (s.type === 'dynamic') {
    const l = Math.max(length, maxPos)
    return inv(base * (1 + s.factor * (l / maxPos - 1)) ** (dim / (dim - 2)))
  }
  if (s.type === 'llama3') {
    return inv(base).map((x) => {
      const turns = (s.originalMaxPositionEmbeddings * x) / (2 * Math.PI)
      const blend = Math.min(1, Math.max(0, (turns - s.lowFreqFactor) / (s.highFreqFactor - s.lowFreqFactor)))
      return x * (blend + (1 - blend) / s.factor)
    })
  }
  if (s.type === 'yarn') {
    const at = (r: number) => (dim * Math.log(s.originalMaxPositionEmbeddings / (r * 2 * Math.PI))) / (2 * Math.log(base))
    const low = Math.max(0, Math.floor(at(s.betaFast ?? 32)))
    const high = Math.min(dim - 1, Math.ceil(at(s.betaSlow ?? 1)))
    return inv(base).map((x, i) => {
      const ramp = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)))
      return (x / s.factor) * ramp + x * (1 - ramp)
    })
  }
  if (s.type === 'longrope') return inv(base).map((x, i) => x / (length > s.originalMaxPositionEmbeddings ? s.longFactor : s.shortFactor)[i]!)
  return inv(base)
}

const LONGROPE = { type: 'longrope', shortFactor: [1, 1.1, 1.3, 2], longFactor: [1.5, 3, 9, 30.25], originalMaxPositionEmbeddings: 64, attentionFactor: 1.19 } as const

const cases: [string, number, number, RopeScaling, number?, number?][] = [
  ['default, Llama 3', 128, 500000, { type: 'default' }],
  ['default, Gemma', 256, 10000, { type: 'default' }],
  ['linear', 16, 10000, { type: 'linear', factor: 2 }],
  ['dynamic within the trained length', 64, 10000, { type: 'dynamic', factor: 4 }, 2048, 2048],
  ['dynamic past the trained length', 64, 10000, { type: 'dynamic', factor: 4 }, 2048, 5000],
  ['yarn', 128, 10000, { type: 'yarn', factor: 16, originalMaxPositionEmbeddings: 4096 }],
  ['yarn, own betas', 64, 1e6, { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 8192, betaFast: 24, betaSlow: 2 }],
  ['yarn, short original length', 16, 10000, { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 64 }],
  ['yarn, high beta_slow bound', 16, 100, { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 4096, betaSlow: 0.001 }],
  ['longrope within the original length', 8, 10000, LONGROPE, 256, 64],
  ['longrope past the original length', 8, 10000, LONGROPE, 256, 65],
  ['llama3', 128, 500000, { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 8192 }],
]

describe('ropeFrequencies', () => {
  it.each(cases)('%s agrees with float64 to a few float32 steps', (_, dim, base, scaling, maxPos, length) => {
    const { invFreq } = ropeFrequencies(dim, base, scaling, maxPos, length)
    const want = exact(dim, base, scaling, maxPos, length)
    expect(invFreq).toHaveLength(dim / 2)
    // Up to six float32 roundings, each half a step of 2^-24.
    for (const [i, x] of invFreq.entries()) expect(Math.abs(x / want[i]! - 1)).toBeLessThan(6 * 2 ** -24)
  })

  it("gives Hugging Face's own numbers for Llama 3.2", () => {
    const { invFreq, attentionScaling } = ropeFrequencies(64, 5e5, {
      type: 'llama3',
      factor: 32,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 8192,
    })
    const printed = [0.00483942125, 0.00321144611, 0.00129054801, 0.000429556705, 9.70828623e-5]
    expect([...invFreq.slice(13, 18)]).toEqual(printed.map(Math.fround))
    expect(attentionScaling).toBe(1)
  })

  it('leaves a sequence within the trained length alone in dynamic mode', () => {
    const dynamic = ropeFrequencies(32, 10000, { type: 'dynamic', factor: 8 }, 512, 512)
    expect(dynamic.invFreq).toEqual(ropeFrequencies(32, 10000).invFreq)
    expect(ropeFrequencies(32, 10000, { type: 'dynamic', factor: 8 }, 512, 513).invFreq).not.toEqual(dynamic.invFreq)
  })

  it.each([
    ['from the factor', {}, 0.1 * Math.log(16) + 1],
    ['given', { attentionFactor: 1.5 }, 1.5],
    ['from mscale', { mscale: 2, mscaleAllDim: 0.5 }, (0.2 * Math.log(16) + 1) / (0.05 * Math.log(16) + 1)],
    ['one mscale alone is ignored', { mscale: 2 }, 0.1 * Math.log(16) + 1],
  ])('yarn scales attention: %s', (_, extra, want) => {
    const { attentionScaling } = ropeFrequencies(64, 10000, { type: 'yarn', factor: 16, originalMaxPositionEmbeddings: 4096, ...extra })
    expect(attentionScaling).toBe(Math.fround(want))
  })

  it('yarn without truncation blends between fractional dimensions', () => {
    const s = { type: 'yarn', factor: 4, originalMaxPositionEmbeddings: 4096 } as const
    expect(ropeFrequencies(64, 10000, { ...s, truncate: false }).invFreq).not.toEqual(ropeFrequencies(64, 10000, s).invFreq)
  })

  it('longrope scales attention by its factor at any length', () => {
    for (const length of [1, 64, 65, 1000]) expect(ropeFrequencies(8, 10000, LONGROPE, 256, length).attentionScaling).toBe(Math.fround(1.19))
  })

  it('says to which length frequencies are fixed, and how far they reach', () => {
    expect([fixedRopeLength({ type: 'default' }, 64), ropeReach({ type: 'default' }, 64)]).toEqual([Infinity, 64])
    expect([fixedRopeLength({ type: 'dynamic', factor: 2.5 }, 63), ropeReach({ type: 'dynamic', factor: 2.5 }, 63)]).toEqual([63, 157])
    expect(ropeReach({ type: 'dynamic', factor: 0.5 }, 64)).toBe(64)
    expect([fixedRopeLength(LONGROPE, 256), ropeReach(LONGROPE, 256)]).toEqual([64, 256])
  })

  it.each([
    ['dim', 7, 10000, { type: 'default' }],
    ['base', 8, 0, { type: 'default' }],
    ['factor', 8, 10000, { type: 'linear', factor: 0 }],
    ['factor', 8, 10000, { type: 'yarn', factor: -1, originalMaxPositionEmbeddings: 16 }],
    ['shortFactor', 16, 10000, LONGROPE],
    ['longFactor', 8, 10000, { ...LONGROPE, longFactor: [1, 1, 0, 1] }],
    ['longFactor', 8, 10000, { ...LONGROPE, longFactor: [1, 1, 1] }],
    ['factor', 8, 10000, { ...LONGROPE, attentionFactor: 0 }],
    ['highFreqFactor', 8, 10000, { type: 'llama3', factor: 2, lowFreqFactor: 4, highFreqFactor: 4, originalMaxPositionEmbeddings: 16 }],
  ] as [string, number, number, RopeScaling][])('refuses a bad %s', (argument, dim, base, scaling) => {
    expect(() => ropeFrequencies(dim, base, scaling)).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument }))
  })
})

describe('ropeTables', () => {
  it('rounds the angle to float32 before cos and sin, and scales both', () => {
    const frequencies = { invFreq: Float32Array.of(1, 0.1), attentionScaling: 2 }
    const { cos, sin } = ropeTables(frequencies, [0, 100000])
    const angle = Math.fround(100000 * Math.fround(0.1))
    expect(angle).not.toBe(100000 * Math.fround(0.1))
    expect([...cos]).toEqual([2, 2, Math.fround(2 * Math.fround(Math.cos(100000))), Math.fround(2 * Math.fround(Math.cos(angle)))])
    expect([...sin.slice(2)]).toEqual([Math.fround(2 * Math.fround(Math.sin(100000))), Math.fround(2 * Math.fround(Math.sin(angle)))])
  })
})
