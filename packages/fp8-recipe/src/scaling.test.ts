import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OctetError, type ScaleGranularity } from '@octet-llm/core'
import {
  amaxOf,
  blockAmax,
  blockScales,
  e8m0FromAmax,
  e8m0Scale,
  e8m0ScaleInv,
  FLOAT32_MAX,
  FP8_MAX,
  inverseScale,
  mxfp8Scales,
  scaleFromAmax,
} from './index.js'
import { divide, magnitudes, multiply, powerBelow } from './oracle.test-helper.js'

describe('scaleFromAmax', () => {
  it('equals exact rational arithmetic, for every option', () => {
    fc.assert(
      fc.property(magnitudes, fc.constantFrom(448, 57344, 6), fc.oneof(fc.constant(0), magnitudes.filter(Number.isFinite)), fc.boolean(), (amax, max, epsilon, power2) => {
        const bound = Number.isNaN(amax) ? NaN : Math.max(amax, epsilon)
        let expected = 1
        if (Number.isFinite(bound) && bound > 0) {
          expected = divide(max, bound)
          if (expected === Infinity) expected = FLOAT32_MAX
          if (power2) expected = powerBelow(expected)
        }
        expect(scaleFromAmax(amax, max, { epsilon, power2 })).toBe(expected)
      }),
      { numRuns: 3000 },
    )
  })

  it('known values', () => {
    expect(scaleFromAmax(448, 448)).toBe(1)
    expect(scaleFromAmax(3, 448)).toBe(Math.fround(448 / 3))
    expect(scaleFromAmax(3, 448, { power2: true })).toBe(128)
    for (const amax of [0, Infinity, NaN]) expect(scaleFromAmax(amax, 448, { power2: true })).toBe(1)
    expect(scaleFromAmax(0, 448, { epsilon: 1 })).toBe(448)
    expect(scaleFromAmax(NaN, 448, { epsilon: 1 })).toBe(1)
    expect(scaleFromAmax(2 ** -149, 448)).toBe(FLOAT32_MAX)
    expect(scaleFromAmax(2 ** -149, 448, { power2: true })).toBe(2 ** 127)
    expect(scaleFromAmax(2 ** -149, 448, { valueForInfinity: 3.3895313892515355e38 })).toBe(3.3895313892515355e38)
    expect(scaleFromAmax(FLOAT32_MAX, 448, { power2: true })).toBe(2 ** -120)
  })

  it('takes its arguments as float32', () => {
    // In float64 0.1 and its float32 neighbour give quotients that round apart.
    fc.assert(
      fc.property(fc.double({ min: 1e-30, max: 1e30, noNaN: true }), fc.double({ min: 1e-30, max: 1e30, noNaN: true }), (amax, epsilon) => {
        expect(scaleFromAmax(amax, 448)).toBe(divide(448, Math.fround(amax)))
        expect(scaleFromAmax(0, 448, { epsilon })).toBe(divide(448, Math.fround(epsilon)))
        expect(inverseScale(amax)).toBe(divide(1, Math.fround(amax)))
      }),
      { numRuns: 500 },
    )
  })

  it('inverts in float32', () => {
    fc.assert(
      fc.property(magnitudes.filter((value) => Number.isFinite(value) && value > 0), (scale) => {
        expect(inverseScale(scale)).toBe(divide(1, scale))
      }),
      { numRuns: 1000 },
    )
  })
})

describe('amax and blocks', () => {
  it('amax is the largest magnitude, NaN if any is, 0 for none', () => {
    expect(amaxOf(Float32Array.of(1, -3, 2))).toBe(3)
    expect(amaxOf(Float32Array.of(-0, 0))).toBe(0)
    expect(amaxOf(new Float32Array(0))).toBe(0)
    expect(amaxOf(Float32Array.of(NaN, Infinity))).toBeNaN()
    expect(amaxOf(Float32Array.of(Infinity, NaN, 1))).toBeNaN()
    expect(amaxOf(Float32Array.of(1, -Infinity))).toBe(Infinity)
  })

  const SIZES: Readonly<Record<ScaleGranularity, (rows: number, columns: number) => [number, number]>> = {
    tensor: (rows, columns) => [rows, columns],
    row: (_rows, columns) => [1, columns],
    block1x128: () => [1, 128],
    block128x128: () => [128, 128],
  }

  it.each(Object.keys(SIZES) as ScaleGranularity[])('%s: every element sees the scale of its own block', (granularity) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 300 }), fc.nat(), fc.boolean(), (rows, columns, seed, power2) => {
        let state = seed | 1
        const values = Float32Array.from({ length: rows * columns }, () => {
          state = (Math.imul(state, 1664525) + 1013904223) | 0
          const pick = (state >>> 8) % 4096
          return pick === 0 ? NaN : pick === 1 ? Infinity : pick < 40 ? 0 : state * 2 ** -(state & 63)
        })
        const { scale, scaleInv, shape } = blockScales(values, [rows, columns], granularity, 'e4m3', { power2 })
        const [height, width] = SIZES[granularity](rows, columns)
        expect(shape).toEqual([Math.ceil(rows / height), Math.ceil(columns / width)])
        // The other way round: from each block to its elements.
        for (let down = 0; down < shape[0]; down++) {
          for (let across = 0; across < shape[1]; across++) {
            const block: number[] = []
            for (let r = down * height; r < Math.min(rows, (down + 1) * height); r++) {
              block.push(...values.subarray(r * columns + across * width, r * columns + Math.min(columns, (across + 1) * width)))
            }
            const amax = block.reduce((so, value) => Math.max(so, Math.abs(value)), 0)
            const at = down * shape[1] + across
            expect(scale[at]).toBe(scaleFromAmax(amax, FP8_MAX.e4m3, { power2 }))
            expect(scaleInv[at]).toBe(inverseScale(scale[at] as number))
          }
        }
      }),
      { numRuns: 30 },
    )
  })

  it('empty tensors have the scales of their shape', () => {
    expect(blockScales(new Float32Array(0), [0, 5], 'tensor', 'e5m2')).toMatchObject({ scale: Float32Array.of(1), shape: [1, 1] })
    expect(blockScales(new Float32Array(0), [3, 0], 'row', 'e4m3')).toMatchObject({ scale: Float32Array.of(1, 1, 1), shape: [3, 1] })
    expect(blockScales(new Float32Array(0), [3, 0], 'block1x128', 'e4m3')).toMatchObject({ scale: new Float32Array(0), shape: [3, 0] })
    expect(blockScales(new Float32Array(0), [0, 0], 'block128x128', 'e4m3').shape).toEqual([0, 0])
  })

  it('uses the maximum of the type asked for', () => {
    expect(blockScales(Float32Array.of(2), [1, 1], 'tensor', 'e5m2').scale[0]).toBe(28672)
    expect(blockScales(Float32Array.of(2), [1, 1], 'tensor', 'e4m3', { epsilon: 4 }).scale[0]).toBe(112)
  })

  it('refuses values of another shape', () => {
    for (const shape of [[2, 3], [-1, -7], [3.5, 2], [NaN, 1]] as const) {
      expect(() => blockAmax(new Float32Array(7), shape[0], shape[1], 1, 1)).toThrow(OctetError)
    }
  })
})

describe('E8M0', () => {
  it('is the smallest power of two that keeps amax within range', () => {
    fc.assert(
      fc.property(magnitudes, fc.constantFrom(448, 57344), (amax, max) => {
        let expected = Number.isNaN(amax) ? 255 : amax === Infinity ? 254 : 0
        if (Number.isFinite(amax)) {
          const value = multiply(amax, Math.fround(1 / max))
          while (2 ** (expected - 127) < value) expected++
        }
        expect(e8m0FromAmax(amax, max)).toBe(expected)
      }),
      { numRuns: 3000 },
    )
  })

  it('codes decode to powers of two and their inverses', () => {
    for (let code = 0; code < 255; code++) {
      expect(e8m0ScaleInv(code) * e8m0Scale(code)).toBe(1)
      expect(Math.fround(e8m0Scale(code))).toBe(e8m0Scale(code))
      expect(Math.fround(e8m0ScaleInv(code))).toBe(e8m0ScaleInv(code))
      // The amax of exactly fp8Max · 2^(code-127) has this very code where float32 can hold the product.
      const amax = 448 * 2 ** (code - 127)
      if (amax <= FLOAT32_MAX) expect(e8m0FromAmax(amax, 448)).toBe(code)
    }
    expect([e8m0ScaleInv(127), e8m0Scale(127), e8m0ScaleInv(255), e8m0Scale(255)]).toEqual([1, 1, NaN, NaN])
    expect(e8m0FromAmax(0, 448)).toBe(0)
    expect(e8m0FromAmax(449, 448)).toBe(128)
    // Past 2^127 there is no larger finite code.
    expect(e8m0FromAmax(FLOAT32_MAX, 1)).toBe(254)
  })

  it('scales rows in blocks of 32, the last one short', () => {
    const values = new Float32Array(2 * 70).fill(448)
    values[31] = 449
    values[64] = NaN
    values[70 + 64] = 896
    const { codes, shape } = mxfp8Scales(values, [2, 70], 'e4m3')
    expect(shape).toEqual([2, 3])
    expect([...codes]).toEqual([128, 127, 255, 127, 127, 128])
  })
})
