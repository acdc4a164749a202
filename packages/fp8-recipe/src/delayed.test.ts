import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OctetError } from '@octet-llm/core'
import { DelayedScaling, FLOAT32_MAX, initialDelayedState, recordAmax, updateDelayedScaling, type DelayedState } from './index.js'
import { divide, magnitudes, multiply } from './oracle.test-helper.js'

/** The fused rule over a list (oldest first) instead of a ring: entry 0 of the array is kept apart. */
class Oracle {
  readonly past: number[]
  current = 0
  scale = 1

  constructor(readonly length: number, readonly margin: number, readonly algo: 'max' | 'most_recent', readonly max: number) {
    this.past = new Array<number>(length - 1).fill(0)
  }

  step(reduced: number): void {
    const last = reduced === 0 ? this.current : reduced
    if (last !== 0) {
      const seen = [...this.past, last]
      if (this.length > 1) {
        this.past.shift()
        this.past.push(last)
      }
      const numbers = seen.filter((value) => !Number.isNaN(value))
      const amax = this.algo === 'most_recent' ? last : numbers.reduce((a, b) => (b > a ? b : a), 0)
      if (amax > 0 && amax < Infinity) {
        const scaled = multiply(this.max, 2 ** -this.margin)
        const scale = divide(scaled, amax)
        this.scale = scale === Infinity ? FLOAT32_MAX : scale
      }
      this.current = 0
    }
  }
}

const steps = fc.array(
  fc.record({ seen: fc.array(magnitudes, { maxLength: 3 }), reduced: fc.oneof(fc.constant(0), fc.constant(0), magnitudes) }),
  { minLength: 1, maxLength: 40 },
)

describe('delayed scaling', () => {
  it('follows the fused rule over random traces with zeros, infinities and NaN', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 1, max: 6 }), fc.integer({ min: -3, max: 3 }), fc.constantFrom('max' as const, 'most_recent' as const), fc.constantFrom(448, 57344), (trace, length, margin, algo, max) => {
        const recipe = new DelayedScaling({ amaxHistoryLen: length, margin, amaxComputeAlgo: algo })
        const oracle = new Oracle(length, margin, algo, max)
        let state: DelayedState = initialDelayedState(recipe)
        for (const { seen, reduced } of trace) {
          for (const amax of seen) {
            state = recordAmax(state, amax)
            if (Number.isNaN(amax) || Number.isNaN(oracle.current)) oracle.current = NaN
            else oracle.current = Math.max(oracle.current, amax)
          }
          const next = updateDelayedScaling(state, recipe, max, reduced)
          oracle.step(reduced)
          expect(next.scale).toBe(oracle.scale)
          expect(next.scaleInv).toBe(divide(1, oracle.scale))
          expect([...next.amaxHistory]).toEqual([oracle.current, ...oracle.past])
          state = next
        }
      }),
      { numRuns: 1500 },
    )
  })

  it('starts at scale 1 and zeros; the first amax counts at once', () => {
    const recipe = new DelayedScaling()
    const state = initialDelayedState(recipe)
    expect(state.scale).toBe(1)
    expect(state.amaxHistory).toEqual(new Float32Array(1024))
    const next = updateDelayedScaling(recordAmax(state, 3), recipe, 448)
    expect(next.scale).toBe(Math.fround(448 / 3))
    expect(next.amaxHistory[1023]).toBe(3)
    expect(next.amaxHistory[0]).toBe(0)
  })

  it('forgets after the history has passed, and not before', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 4 })
    let state: DelayedState = updateDelayedScaling(recordAmax(initialDelayedState(recipe), 100), recipe, 448)
    const scales = []
    for (let i = 0; i < 4; i++) {
      state = updateDelayedScaling(recordAmax(state, 1), recipe, 448)
      scales.push(state.scale)
    }
    // Four amaxes count: the current one and three before it.
    expect(scales).toEqual([Math.fround(4.48), Math.fround(4.48), Math.fround(4.48), 448])
  })

  it('a step without an amax changes nothing', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 3 })
    const state = { amaxHistory: Float32Array.of(0, 5, 7), scale: 9 }
    expect(updateDelayedScaling(state, recipe, 448)).toMatchObject({ amaxHistory: Float32Array.of(0, 5, 7), scale: 9 })
  })

  it('an amax that is not finite keeps the scale but enters the history', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 3 })
    const state = { amaxHistory: Float32Array.of(Infinity, 5, 7), scale: 9 }
    expect(updateDelayedScaling(state, recipe, 448)).toMatchObject({ amaxHistory: Float32Array.of(0, 7, Infinity), scale: 9 })
    const nan = updateDelayedScaling({ amaxHistory: Float32Array.of(NaN, 5, 7), scale: 9 }, recipe, 448)
    expect([...nan.amaxHistory]).toEqual([0, 7, NaN])
    expect(nan.scale).toBe(64)
    const recent = new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo: 'most_recent' })
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(NaN, 5, 7), scale: 9 }, recent, 448).scale).toBe(9)
  })

  it('a scale past float32 is its largest value, with the margin applied first', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 1 })
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(2 ** -149), scale: 1 }, recipe, 448).scale).toBe(FLOAT32_MAX)
    const roomy = new DelayedScaling({ amaxHistoryLen: 1, margin: 30 })
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(2 ** -149), scale: 1 }, roomy, 448).scale).toBe(448 * 2 ** 119)
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(0), scale: Infinity }, recipe, 448).scale).toBe(FLOAT32_MAX)
  })

  it('leaves its arguments alone', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 2 })
    const state = { amaxHistory: Float32Array.of(3, 1), scale: 1 }
    updateDelayedScaling(state, recipe, 448, 8)
    recordAmax(state, 99)
    expect(state.amaxHistory).toEqual(Float32Array.of(3, 1))
  })

  it('refuses a history of another length', () => {
    expect(() => updateDelayedScaling({ amaxHistory: new Float32Array(2), scale: 1 }, new DelayedScaling(), 448)).toThrow(OctetError)
  })
})

describe('with functions of one’s own', () => {
  it('the amax function sees the history before it rolls, which it always does', () => {
    const seen: number[][] = []
    const recipe = new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo: (history) => (seen.push([...history]), history.fill(9), 4) })
    const next = updateDelayedScaling({ amaxHistory: Float32Array.of(2, 5, 7), scale: 1 }, recipe, 448)
    expect(seen).toEqual([[2, 5, 7]])
    expect([...next.amaxHistory]).toEqual([0, 7, 2])
    expect(next.scale).toBe(112)
    // Also where the step saw nothing.
    expect([...updateDelayedScaling({ amaxHistory: Float32Array.of(0, 5, 7), scale: 1 }, recipe, 448).amaxHistory]).toEqual([0, 7, 0])
    // A reduced amax takes entry 0 first.
    updateDelayedScaling({ amaxHistory: Float32Array.of(2, 5, 7), scale: 1 }, recipe, 448, 6)
    expect(seen.at(-1)).toEqual([6, 5, 7])
  })

  it('the scale function gets amax, old scale, fp8Max and recipe; its result is taken as it is', () => {
    const calls: unknown[] = []
    const recipe: DelayedScaling = new DelayedScaling({ amaxHistoryLen: 3, scalingFactorComputeAlgo: (...args) => (calls.push(args), 0.1) })
    const next = updateDelayedScaling({ amaxHistory: Float32Array.of(2, 5, 7), scale: 3 }, recipe, 448)
    expect(calls).toEqual([[7, 3, 448, recipe]])
    expect(next.scale).toBe(Math.fround(0.1))
    const recent = new DelayedScaling({ amaxHistoryLen: 3, amaxComputeAlgo: 'most_recent', scalingFactorComputeAlgo: (amax) => amax })
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(2, 5, 7), scale: 3 }, recent, 448).scale).toBe(2)
  })

  it('divides by 2^margin after the amax, and passes NaN on', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 1, margin: 30, amaxComputeAlgo: (history) => history[0] as number })
    // 448 / 2^-149 overflows before the margin can help: the other order than the fused rule.
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(2 ** -149), scale: 1 }, recipe, 448).scale).toBe(FLOAT32_MAX)
    expect(updateDelayedScaling({ amaxHistory: Float32Array.of(3), scale: 1 }, recipe, 448).scale).toBe(Math.fround(Math.fround(448 / 3) / 2 ** 30))
    for (const amax of [NaN, Infinity, 0, -1]) {
      const odd = new DelayedScaling({ amaxHistoryLen: 1, amaxComputeAlgo: () => amax })
      expect(updateDelayedScaling({ amaxHistory: Float32Array.of(3), scale: 5 }, odd, 448).scale).toBe(5)
    }
    const long = new DelayedScaling({ amaxHistoryLen: 300_000, scalingFactorComputeAlgo: (amax) => amax })
    const history = new Float32Array(300_000)
    history[299_999] = 8
    expect(updateDelayedScaling({ amaxHistory: history, scale: 1 }, long, 448).scale).toBe(8)
    history[7] = NaN
    expect(updateDelayedScaling({ amaxHistory: history, scale: 1 }, long, 448).scale).toBeNaN()
  })

  it('refuses a function that returns no number', () => {
    const recipe = new DelayedScaling({ amaxHistoryLen: 1, amaxComputeAlgo: () => 'x' as unknown as number })
    expect(() => updateDelayedScaling({ amaxHistory: Float32Array.of(3), scale: 1 }, recipe, 448)).toThrow(/returns a number/)
  })
})
