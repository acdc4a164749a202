import { E4M3_TO_F32, E5M2_TO_F32, f32ToE4m3, f32ToE5m2 } from '@octet-llm/core'
import { describe, expect, it } from 'vitest'
import { Random, encode, fromCodes, host, product, roundTo, sampled, spread } from './host.js'

const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)

describe('FP8 on the host', () => {
  it.each(['e4m3', 'e5m2'] as const)('encodes every value of %s to its own code', (dtype) => {
    const { values } = fromCodes(dtype, [256], bytes)
    const codes = encode(host(dtype, [256], values))
    for (let code = 0; code < 256; code++) {
      if (Number.isNaN(values[code]!)) expect(codes[code]).toBe(0x7f)
      // Infinity saturates on its way into a host tensor.
      else if (Math.abs(values[code]!) === Infinity) expect(codes[code]! & 0x7f).toBe(0x7b)
      else expect(codes[code]).toBe(code)
    }
  })

  it('rounds as core does', () => {
    const random = new Random('rounding')
    for (let i = 0; i < 20000; i++) {
      const v = Math.fround((random.uniform() - 0.5) * 2 ** (random.below(60) - 40))
      expect(Object.is(roundTo('e4m3', v), E4M3_TO_F32[f32ToE4m3(v)])).toBe(true)
      expect(Object.is(roundTo('e5m2', v), E5M2_TO_F32[f32ToE5m2(v)])).toBe(true)
    }
    for (const v of [0, -0, Infinity, -Infinity, 448, 449, 464, 1e9, -57344, 61440, 2 ** -10, 3 * 2 ** -10, 2 ** -17, 3 * 2 ** -17]) {
      expect(roundTo('e4m3', v)).toBe(E4M3_TO_F32[f32ToE4m3(v)])
      expect(roundTo('e5m2', v)).toBe(E5M2_TO_F32[f32ToE5m2(v)])
    }
    expect(roundTo('e4m3', NaN)).toBeNaN()
  })
})

describe('Random', () => {
  it('repeats by seed and differs between seeds', () => {
    const draw = (seed: string): number[] => Array.from({ length: 8 }, () => 0).map(((r) => () => r.uniform())(new Random(seed)))
    expect(draw('a')).toEqual(draw('a'))
    expect(draw('a')).not.toEqual(draw('b'))
  })

  it('is uniform enough for a table', () => {
    const random = new Random('uniform')
    const counts = new Array<number>(16).fill(0)
    for (let i = 0; i < 16000; i++) counts[random.below(16)]!++
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150)
  })
})

describe('case lists', () => {
  const axes = { D: [1, 2, 3, 4, 5, 6], x: ['f32', 'bf16'], y: ['f32', 'bf16'], placement: ['a', 'b', 'c'] }

  it('has every combination once', () => {
    const names = [...product(axes)].map((c) => c.name)
    expect(names).toHaveLength(72)
    expect(new Set(names).size).toBe(72)
    expect(names[0]).toBe('D=1 x=f32 y=f32 placement=a')
  })

  it('keeps every value, and every pair of values, of a spread', () => {
    const some = [...spread(axes, 40)].map((c) => c.at)
    expect(new Set(some.map((at) => JSON.stringify(at))).size).toBe(40)
    for (const D of axes.D) for (const x of axes.x) expect(some.some((at) => at.D === D && at.x === x)).toBe(true)
    for (const x of axes.x) for (const y of axes.y) expect(some.some((at) => at.x === x && at.y === y)).toBe(true)
  })

  it('keeps every value of every axis in the reduced table', () => {
    const kept = [...product(axes)].filter((_, i) => sampled(i, 4)).map((c) => c.at)
    expect(kept.length).toBeLessThan(40)
    for (const D of axes.D) expect(kept.some((at) => at.D === D)).toBe(true)
    for (const p of axes.placement) expect(kept.some((at) => at.placement === p)).toBe(true)
  })
})
