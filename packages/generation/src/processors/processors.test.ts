import { OctetError } from '@octet-llm/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { GENERATION_DEFAULTS, resolveGenerationConfig, type GenerationOptions } from '../config/generation-config.js'
import { softmax } from '../sampling/index.js'
import * as p from './index.js'

const f32 = (values: readonly number[]): Float32Array => Float32Array.from(values)

function run(processor: p.LogitsProcessor, scores: readonly number[], ids: readonly number[] = [], promptLength = ids.length): number[] {
  const row = f32(scores)
  processor(row, { ids, promptLength, sequence: 0 })
  return Array.from(row)
}

/** Indices that are not banned. */
const kept = (scores: readonly number[]): number[] => scores.flatMap((s, i) => (s > -Infinity ? [i] : []))
const logs = (probs: readonly number[]): number[] => probs.map(Math.log)
const build = (options: GenerationOptions, o: Partial<p.ProcessorOptions> = {}): p.LogitsProcessor[] =>
  p.buildProcessors(resolveGenerationConfig({ call: options }), { eosTokenIds: [1], maxLength: 10, ...o })

describe('penalties', () => {
  it('matches the published repetition vector: once a token, whatever its count', () => {
    expect(run(p.repetitionPenalty(1.5), [1, 2, 2, 0, -1], [1, 4])).toEqual(Array.from(f32([1, 4 / 3, 2, 0, -1.5])))
    expect(run(p.repetitionPenalty(1.5), [1, 2, 2, 0, -1], [1, 4, 1, 1])).toEqual(Array.from(f32([1, 4 / 3, 2, 0, -1.5])))
  })

  it('leaves ids outside the vocabulary alone', () => {
    expect(run(p.repetitionPenalty(2), [1, 1], [-100, 7, 0])).toEqual([0.5, 1])
  })

  it('favours the prompt with an encoder penalty, and only the prompt', () => {
    expect(run(p.encoderRepetitionPenalty(2), [1, 1, -1], [0, 2, 1], 2)).toEqual([2, 1, -0.5])
  })

  it('bans what followed the last n-1 ids', () => {
    expect(kept(run(p.noRepeatNgram(2), [0, 0, 0, 0], [1, 2, 1, 3, 1]))).toEqual([0, 1])
    expect(kept(run(p.noRepeatNgram(1), [0, 0, 0, 0], [1, 2]))).toEqual([0, 3])
    expect(kept(run(p.noRepeatNgram(3), [0, 0, 0, 0], [1, 2]))).toEqual([0, 1, 2, 3])
    expect(kept(run(p.noRepeatNgram(3), [0, 0, 0, 0], [0, 1, 2, 0, 1]))).toEqual([0, 1, 3])
    expect(kept(run(p.encoderNoRepeatNgram(2), [0, 0, 0, 0], [1, 2, 1, 3, 1], 2))).toEqual([0, 1, 3])
  })

  it('biases the last id of a sequence whose other ids end the row', () => {
    const bias = p.sequenceBias([[[2], 1], [[1, 3], 2], [[0, 1, 3], 4]])
    expect(run(bias, [0, 0, 0, 0], [0, 1])).toEqual([0, 0, 1, 2])
    expect(run(bias, [0, 0, 0, 0], [5, 0, 1])).toEqual([0, 0, 1, 6])
    expect(run(bias, [0, 0, 0, 0], [1, 0])).toEqual([0, 0, 1, 0])
  })

  it('never bans a bare EOS as a bad word', () => {
    expect(kept(run(p.badWords([[1], [2], [0, 3]], [1]), [0, 0, 0, 0], [0, 0]))).toEqual([0, 1])
    expect(kept(run(p.badWords([[0, 1]], [1]), [0, 0], [5, 0]))).toEqual([0])
  })

  it('lets EOS grow after the start of a decaying length', () => {
    const decay = p.exponentialDecayLength(2, 1.5, [1])
    expect(run(decay, [0, -2], [9, 5, 5], 1)).toEqual([0, -2])
    expect(run(decay, [0, -2], [9, 5, 5, 5], 1)).toEqual([0, -1])
    expect(run(decay, [0, 2], [9, 5, 5, 5, 5], 1)).toEqual([0, 4.5])
  })
})

describe('constraints', () => {
  it('holds EOS back: min length counts pads and prompt, min new tokens neither', () => {
    expect(kept(run(p.minLength(3, [1]), [0, 0], [0, 0]))).toEqual([0])
    expect(kept(run(p.minLength(3, [1]), [0, 0], [0, 0, 0]))).toEqual([0, 1])
    expect(kept(run(p.minNewTokens(1, [0, 1]), [0, 0, 0], [0, 0, 0]))).toEqual([2])
    expect(kept(run(p.minNewTokens(1, [1]), [0, 0], [0, 0, 0], 2))).toEqual([0, 1])
  })

  it('forces BOS after one id and EOS at the last place', () => {
    expect(run(p.forcedBos(2), [5, 5, 5], [7])).toEqual([-Infinity, -Infinity, 0])
    expect(run(p.forcedBos(2), [5, 5, 5], [7, 7])).toEqual([5, 5, 5])
    expect(run(p.forcedEos(4, [0, 2]), [5, 5, 5], [7, 7, 7])).toEqual([0, -Infinity, 0])
    expect(run(p.forcedEos(4, [0, 2]), [5, 5, 5], [7, 7])).toEqual([5, 5, 5])
  })

  it('suppresses always, or only at the beginning', () => {
    expect(kept(run(p.suppressTokens([0, 9]), [0, 0], [3, 3], 1))).toEqual([1])
    expect(kept(run(p.beginSuppressTokens([0]), [0, 0], [3, 3]))).toEqual([1])
    expect(kept(run(p.beginSuppressTokens([0]), [0, 0], [3, 3], 1))).toEqual([0, 1])
    expect(kept(run(p.beginSuppressTokens([0], 4), [0, 0], [3]))).toEqual([0, 1])
    expect(kept(run(p.beginSuppressTokens([0], 4), [0, 0], [3, 4], 1))).toEqual([1])
  })

  it('replaces NaN and infinities by finite numbers', () => {
    expect(run(p.removeInvalidValues(), [NaN, Infinity, -Infinity, 1])).toEqual([0, 3.4028234663852886e38, -3.4028234663852886e38, 1])
  })

  it('keeps what a prefix allows and names the sequence that allows nothing', () => {
    const seen: unknown[] = []
    const allow = p.prefixAllowedTokens((sequence, ids) => {
      seen.push([sequence, [...ids]])
      return ids.length > 2 ? [] : [1, 3]
    })
    expect(kept(run(allow, [1, 2, 3, 4], [8]))).toEqual([1, 3])
    expect(seen).toEqual([[0, [8]]])
    expect(() => run(allow, [1, 2], [8, 8, 8])).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'prefixAllowedTokens' }) as Error)
  })

  it('renormalises to log-probabilities', () => {
    const out = run(p.renormalize(), [1, 2, 3])
    expect(out.reduce((sum, s) => sum + Math.exp(s), 0)).toBeCloseTo(1, 6)
    expect(out[2]! - out[0]!).toBeCloseTo(2, 6)
  })
})

describe('warpers', () => {
  it('matches the published nucleus vector', () => {
    expect(kept(run(p.topP(0.85), logs([0.1, 0.4, 0.4, 0.1])))).toEqual([1, 2, 3])
  })

  it('keeps all ties with the k-th score', () => {
    expect(kept(run(p.topK(2), [3, 1, 2, 2, 0]))).toEqual([0, 2, 3])
    expect(kept(run(p.topK(9), [3, 1]))).toEqual([0, 1])
    expect(kept(run(p.topK(1, 2), [3, 1, 2]))).toEqual([0, 2])
  })

  it('keeps at least one token, or minKeep', () => {
    const scores = logs([0.7, 0.2, 0.1])
    expect(kept(run(p.topP(0), scores))).toEqual([0])
    expect(kept(run(p.topP(0.1, 2), scores))).toEqual([0, 1])
    expect(kept(run(p.minP(1), scores))).toEqual([0])
    expect(kept(run(p.minP(1, 2), scores))).toEqual([0, 1])
    expect(kept(run(p.epsilonCutoff(0.9), scores))).toEqual([0])
    expect(kept(run(p.epsilonCutoff(0.9, 2), scores))).toEqual([0, 1])
    expect(kept(run(p.epsilonCutoff(0.15), scores))).toEqual([0, 1])
    expect(kept(run(p.typicalP(0.01, 2), scores))).toHaveLength(2)
    expect(kept(run(p.topH(0.01), scores))).toEqual([0])
  })

  it('matches hand-made min-p, eta, typical and top-h cases', () => {
    expect(kept(run(p.minP(0.3), logs([0.6, 0.19, 0.17, 0.04])))).toEqual([0, 1])
    // Uniform over 4: entropy ln 4, eta = min(0.3, sqrt(0.3)/4) = 0.137: nothing is below.
    expect(kept(run(p.etaCutoff(0.3), logs([0.25, 0.25, 0.25, 0.25])))).toEqual([0, 1, 2, 3])
    // Entropy 0.394: eta = min(0.3, 0.5477·e^-0.394 = 0.369) = 0.3.
    expect(kept(run(p.etaCutoff(0.3), logs([0.9, 0.05, 0.05])))).toEqual([0])
    // Entropy 1.0297; distances of -ln p: 0.336 (0.5), 0.174 (0.3), 1.27 (0.1), 1.27: 0.3 first, then 0.5.
    expect(kept(run(p.typicalP(0.2), logs([0.5, 0.3, 0.1, 0.1])))).toEqual([1])
    expect(kept(run(p.typicalP(0.7), logs([0.5, 0.3, 0.1, 0.1])))).toEqual([0, 1])
    // Entropy terms .3466 .3612 .2303 .2303 of 1.168: half of it holds the first only, 0.7 of it the first two.
    expect(kept(run(p.topH(0.5), logs([0.5, 0.3, 0.1, 0.1])))).toEqual([0])
    expect(kept(run(p.topH(0.7), logs([0.5, 0.3, 0.1, 0.1])))).toEqual([0, 1])
  })

  it('removes a token at the very limit of the nucleus, and keeps one at the limit of top-h and typical', () => {
    expect(kept(run(p.topP(0.75), [0, 0, 0, 0]))).toEqual([1, 2, 3])
    expect(kept(run(p.topP(0.5), [0, 0, 0, 0]))).toEqual([2, 3])
    expect(kept(run(p.topH(1), [0, 0, -Infinity]))).toEqual([0, 1])
    // Entropy 1.906; the two of 0.125 are closest and hold 0.25 exactly.
    expect(kept(run(p.typicalP(0.25), logs([0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625])))).toEqual([2, 3])
  })

  it('leaves banned tokens out of the entropy', () => {
    expect(kept(run(p.etaCutoff(0.3), logs([0.9, 0.05, 0.05, 0])))).toEqual([0])
    expect(kept(run(p.typicalP(0.2), logs([0.5, 0.3, 0.1, 0.1, 0])))).toEqual([1])
  })

  it('looks at 100 tokens at most for top-h', () => {
    expect(kept(run(p.topH(1), Array.from({ length: 120 }, (_, i) => -i * 1e-6))).every((i) => i < 100)).toBe(true)
  })
})

/** The same rules written the slow way: sort everything, keep a set. */
const naive = {
  topK: (s: readonly number[], k: number, minKeep: number): number[] => {
    const nth = [...s].sort((a, b) => b - a)[Math.min(Math.max(k, minKeep), s.length) - 1]!
    return s.map((x) => (x < nth ? -Infinity : x))
  },
  topP: (s: readonly number[], top: number, minKeep: number): number[] => {
    const probs = softmax(f32(s))
    const order = s.map((_, i) => i).sort((a, b) => (s[a] === s[b] ? a - b : s[a]! - s[b]!))
    let cumulative = 0
    const out = [...s]
    order.forEach((i, rank) => {
      cumulative += probs[i]!
      if (Math.fround(cumulative) <= Math.fround(1 - top) && rank < s.length - minKeep) out[i] = -Infinity
    })
    return out
  },
  ngram: (ids: readonly number[], n: number): Set<number> => {
    const followers = new Map<string, number[]>()
    for (let i = 0; i + n <= ids.length; i++) {
      const key = ids.slice(i, i + n - 1).join()
      followers.set(key, [...(followers.get(key) ?? []), ids[i + n - 1]!])
    }
    return ids.length + 1 < n ? new Set() : new Set(followers.get(ids.slice(ids.length + 1 - n).join()) ?? [])
  },
}

const score = fc.oneof({ weight: 6, arbitrary: fc.integer({ min: -40, max: 40 }).map((i) => i / 8) }, { weight: 1, arbitrary: fc.constant(-Infinity) })
const scoresArb = fc.array(score, { minLength: 1, maxLength: 24 }).filter((s) => s.some((x) => x > -Infinity))

describe('processors against naive ones', () => {
  it('top-k and top-p, with ties, bans and minKeep', () => {
    fc.assert(fc.property(scoresArb, fc.integer({ min: 1, max: 12 }), fc.double({ min: 0, max: 0.999, noNaN: true }), fc.integer({ min: 1, max: 4 }), (s, k, top, minKeep) => {
      expect(run(p.topK(k, minKeep), s)).toEqual(naive.topK(s, k, minKeep))
      expect(run(p.topP(top, minKeep), s)).toEqual(naive.topP(s, top, minKeep))
    }), { numRuns: 500 })
  })

  it('top-p leaves at least p of the mass, and less than p without its least token', () => {
    fc.assert(fc.property(fc.array(fc.double({ min: -6, max: 6, noNaN: true }), { minLength: 2, maxLength: 400 }), fc.double({ min: 0.05, max: 0.95, noNaN: true }), (s, top) => {
      const probs = softmax(f32(s))
      const left = kept(run(p.topP(top), s)).map((i) => probs[i]!)
      const mass = left.reduce((a, b) => a + b, 0)
      expect(mass).toBeGreaterThan(top - 1e-5)
      if (left.length > 1) expect(mass - Math.min(...left)).toBeLessThan(top + 1e-5)
    }))
  })

  it('no-repeat n-grams', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 14 }), fc.integer({ min: 1, max: 4 }), (ids, n) => {
      const banned = naive.ngram(ids, n)
      expect(kept(run(p.noRepeatNgram(n), [0, 0, 0, 0], ids))).toEqual([0, 1, 2, 3].filter((i) => !banned.has(i)))
    }), { numRuns: 500 })
  })

  it('repetition penalty', () => {
    fc.assert(fc.property(scoresArb, fc.array(fc.integer({ min: 0, max: 23 })), fc.double({ min: 0.5, max: 2, noNaN: true }), (s, ids, penalty) => {
      const p32 = Math.fround(penalty)
      const want = s.map((x, i) => Math.fround(!ids.includes(i) ? x : x < 0 ? x * p32 : x / p32))
      expect(run(p.repetitionPenalty(penalty), s, ids)).toEqual(want)
    }))
  })

  it('every warper keeps the order of what it keeps and always keeps a token', () => {
    const warpers = fc.constantFrom(p.topK(3), p.topP(0.5), p.minP(0.2), p.typicalP(0.5), p.epsilonCutoff(0.1), p.etaCutoff(0.1), p.topH(0.6))
    fc.assert(fc.property(scoresArb, warpers, (s, warp) => {
      const out = run(warp, s)
      const left = kept(out)
      expect(left.length).toBeGreaterThan(0)
      for (const i of left) expect(out[i]).toBe(Math.fround(s[i]!))
    }), { numRuns: 500 })
  })
})

describe('buildProcessors', () => {
  const everything: GenerationOptions = {
    sequenceBias: [[[3], 1]], encoderRepetitionPenalty: 1.1, repetitionPenalty: 1.2, noRepeatNgramSize: 3, encoderNoRepeatNgramSize: 2,
    badWordsIds: [[4]], minNewTokens: 2, forcedBosTokenId: 2, forcedEosTokenId: 1, removeInvalidValues: true,
    exponentialDecayLengthPenalty: [3, 1.1], suppressTokens: [5], beginSuppressTokens: [6], doSample: true, temperature: 0.7, topH: 0.9,
    topK: 5, topP: 0.9, minP: 0.01, typicalP: 0.9, epsilonCutoff: 0.01, etaCutoff: 0.01, renormalizeLogits: true,
  }

  it("runs in transformers' order, the caller's own before the sampling ones", () => {
    const own: p.LogitsProcessor = function own() {}
    const names = build(everything, { user: [own], prefixAllowedTokens: () => [1] }).map((f) => f.name)
    expect(names).toEqual([
      'sequenceBias', 'encoderRepetitionPenalty', 'repetitionPenalty', 'noRepeatNgram', 'encoderNoRepeatNgram', 'badWords',
      'minNewTokens', 'prefixAllowedTokens', 'forcedBos', 'forcedEos', 'removeInvalidValues', 'exponentialDecayLength', 'suppressTokens',
      'beginSuppressTokens', 'own', 'temperature', 'topH', 'topK', 'topP', 'minP', 'typicalP', 'epsilonCutoff', 'etaCutoff', 'renormalize',
    ])
  })

  it('counts new tokens rather than all where both minima are set', () => {
    const names = (options: GenerationOptions): string[] => build(options).map((f) => f.name)
    expect(names({ minLength: 2 })).toEqual(['minLength'])
    expect(names({ minLength: 30, minNewTokens: 2 })).toEqual(['minNewTokens'])
  })

  it('leaves the sampling ones out of greedy decoding and what needs EOS out without one', () => {
    const names = build({ ...everything, doSample: false }, { eosTokenIds: [] }).map((f) => f.name)
    expect(names).not.toContain('temperature')
    expect(names).not.toContain('minLength')
    expect(names).not.toContain('minNewTokens')
    expect(names).not.toContain('exponentialDecayLength')
    expect(build({})).toEqual([])
  })

  it('keeps one token beside every EOS for beams that sample', () => {
    const [warp] = p.buildProcessors({ ...GENERATION_DEFAULTS, doSample: true, numBeams: 2, topK: 1 }, { eosTokenIds: [0, 1], maxLength: 9 })
    expect(kept(run(warp!, [5, 4, 3, 2]))).toEqual([0, 1, 2])
    const [none] = p.buildProcessors({ ...GENERATION_DEFAULTS, doSample: true, numBeams: 2, topK: 1 }, { eosTokenIds: [], maxLength: 9 })
    expect(kept(run(none!, [5, 4, 3, 2]))).toEqual([0, 1])
  })

  it('tells what the device can choose alone', () => {
    const select = (call: GenerationOptions, o: Partial<p.ProcessorOptions> = {}): unknown =>
      p.deviceSelection(resolveGenerationConfig({ call }), { eosTokenIds: [1], maxLength: 9, ...o })
    expect(select({})).toBe('argmax')
    expect(select({ doSample: true, temperature: 0.5, topP: 0.9 })).toEqual({ temperature: 0.5, topK: 50, topP: 0.9, minP: 0 })
    expect(select({ doSample: true, minP: 0.1 })).toMatchObject({ minP: 0.1 })
    for (const host of [{ repetitionPenalty: 1.1 }, { numBeams: 2 }, { minNewTokens: 1 }, { doSample: true, typicalP: 0.9 }, { doSample: true, topH: 0.5 },
      { doSample: true, etaCutoff: 0.1 }, { doSample: true, epsilonCutoff: 0.1 }]) expect(select(host)).toBeNull()
    expect(select({}, { user: [() => {}] })).toBeNull()
    expect(select({ minNewTokens: 1 }, { eosTokenIds: [] })).toBe('argmax')
  })

  it('is an OctetError when a prefix allows nothing', () => {
    const [allow] = build({}, { prefixAllowedTokens: () => [] })
    try {
      run(allow!, [1])
      expect.unreachable()
    } catch (error) {
      expect(OctetError.is(error, 'INVALID_ARGUMENT')).toBe(true)
    }
  })
})
