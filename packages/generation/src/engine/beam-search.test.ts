import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { logSoftmax } from '../sampling/index.js'
import { hashedLogits } from '../testing/fake-model.test.helper.js'
import { BeamSearch, type BeamOptions, type BeamResult } from './beam-search.js'
import type { StopDecision } from './stopping.js'

type LogProbs = (tokens: readonly number[]) => Float32Array

interface Setting extends BeamOptions {
  readonly eos: readonly number[]
}

const logProbsOf = (vocabSize: number, seed: number): LogProbs => {
  const logits = hashedLogits(vocabSize, seed)
  return (tokens) => logSoftmax(logits(tokens))
}

function search(setting: Setting, logProbs: LogProbs, count: number): BeamResult[] {
  const beams = new BeamSearch(setting)
  for (let guard = 0; !beams.done; guard++) {
    expect(guard).toBeLessThan(setting.maxNewTokens)
    const running = beams.running
    const candidates = beams.candidates(running.map((b) => logProbs(b.tokens)))
    const stops = candidates.map(({ tokens }): StopDecision | null => {
      if (setting.eos.includes(tokens.at(-1)!)) return { reason: 'eos' }
      return tokens.length >= setting.maxNewTokens ? { reason: 'length' } : null
    })
    const sources = beams.commit(candidates, stops)
    beams.running.forEach((b, i) => expect(b.tokens.slice(0, -1)).toEqual(running[sources[i]!]!.tokens))
  }
  return beams.results(count)
}

/** Every sequence that ends in EOS or at the length, with its score in float64. */
function allSequences(setting: Setting, vocabSize: number, logProbs: LogProbs): { tokens: number[]; score: number }[] {
  const found: { tokens: number[]; score: number }[] = []
  const walk = (tokens: number[], sum: number): void => {
    const row = logProbs(tokens)
    for (let v = 0; v < vocabSize; v++) {
      const next = [...tokens, v]
      const total = sum + row[v]!
      if (setting.eos.includes(v) || next.length === setting.maxNewTokens) found.push({ tokens: next, score: total / next.length ** setting.lengthPenalty })
      else walk(next, total)
    }
  }
  walk([], 0)
  return found.sort((a, b) => b.score - a.score)
}

/** transformers' loop as its tensors do it, for one prompt: placeholders, masks and -1e9 included. */
function tensorLoop(setting: Setting, vocabSize: number, logProbs: LogProbs): { tokens: number[]; score: number; finished: boolean }[] {
  const { numBeams: n, eos, maxNewTokens, lengthPenalty, earlyStopping } = setting
  const f = Math.fround
  const keep = Math.max(2, 1 + eos.length) * n
  const top = (values: readonly number[], k: number): number[] => values.map((_, i) => i).sort((a, b) => (values[b] === values[a] ? a - b : values[b]! - values[a]!)).slice(0, k)
  let running = Array.from({ length: n }, (_, i) => ({ tokens: [] as number[], score: i === 0 ? 0 : -1e9 }))
  let done = running.map(() => ({ tokens: [] as number[], score: -1e9, finished: false }))
  let open = true
  for (let length = 0; ; ) {
    const flat = running.flatMap((b) => Array.from(logProbs(b.tokens), (lp) => f(lp + b.score)))
    const best = top(flat, keep).map((i) => ({ tokens: [...running[Math.floor(i / vocabSize)]!.tokens, i % vocabSize], score: flat[i]! }))
    const hits = best.map(({ tokens }) => eos.includes(tokens.at(-1)!) || tokens.length >= maxNewTokens)
    const masked = best.map((b, i) => f(b.score + (hits[i] === true ? -1e9 : 0)))
    const next = top(masked, n).map((i) => ({ tokens: best[i]!.tokens, score: masked[i]! }))
    const full = done.every((d) => d.finished) && earlyStopping === true
    const merged = [...done, ...best.map((b, i) => {
      const finished = hits[i] === true && i < n
      let score = f(b.score / (length + 1) ** lengthPenalty)
      for (const blocked of [full, !open, !finished]) if (blocked) score = f(score - 1e9)
      return { tokens: b.tokens, score, finished }
    })]
    done = top(merged.map((m) => m.score), n).map((i) => merged[i]!)
    running = next
    length += 1
    const hypothetical = earlyStopping === 'never' && lengthPenalty > 0 ? maxNewTokens : length
    const possible = f(running[0]!.score / hypothetical ** lengthPenalty)
    const worst = Math.min(...done.map((d) => d.score))
    open = open && done.some((d) => possible > (d.finished ? worst : -1e9))
    if (!open || (done.every((d) => d.finished) && earlyStopping === true) || hits.every(Boolean)) return done
  }
}

const settings = fc.record({
  numBeams: fc.integer({ min: 2, max: 5 }),
  eos: fc.subarray([0, 1, 2], { maxLength: 2 }),
  maxNewTokens: fc.integer({ min: 1, max: 7 }),
  lengthPenalty: fc.constantFrom(1, 0, 2, -1, 0.5),
  earlyStopping: fc.constantFrom<boolean | 'never'>(true, false, 'never'),
}).map((s): Setting => ({ ...s, eosCount: s.eos.length }))

describe('BeamSearch', () => {
  it('finds the truly best sequences when it is wide enough and stops only when none can win', () => {
    fc.assert(fc.property(fc.integer(), fc.integer({ min: 1, max: 4 }), fc.constantFrom(1, 0, 2, -1), fc.subarray([0, 1], { maxLength: 2 }), (seed, maxNewTokens, lengthPenalty, eos) => {
      const vocabSize = 4
      const setting: Setting = { numBeams: vocabSize ** maxNewTokens + 1, eosCount: eos.length, eos, maxNewTokens, lengthPenalty, earlyStopping: 'never' }
      const logProbs = logProbsOf(vocabSize, seed)
      const want = allSequences(setting, vocabSize, logProbs)
      const got = search(setting, logProbs, 3)
      expect(got.map((r) => r.tokens)).toEqual(want.slice(0, got.length).map((w) => w.tokens))
      got.forEach((r, i) => expect(r.score).toBeCloseTo(want[i]!.score, 4))
    }), { numRuns: 60 })
  })

  it("equals transformers' tensor loop, sequence by sequence and score by score", () => {
    fc.assert(fc.property(fc.integer(), settings, (seed, setting) => {
      const vocabSize = 16
      const want = tensorLoop(setting, vocabSize, logProbsOf(vocabSize, seed))
      const got = search(setting, logProbsOf(vocabSize, seed), setting.numBeams)
      expect(want.every((w) => w.finished)).toBe(true)
      expect(got.map(({ tokens, score }) => ({ tokens, score }))).toEqual(want.map(({ tokens, score }) => ({ tokens, score })))
    }), { numRuns: 400 })
  })

  it('says why each sequence ended', () => {
    const setting: Setting = { numBeams: 3, eosCount: 1, eos: [0], maxNewTokens: 4, lengthPenalty: 1, earlyStopping: false }
    for (let seed = 0; seed < 20; seed++) {
      for (const { tokens, stop } of search(setting, logProbsOf(9, seed), 3)) {
        expect(stop).toEqual({ reason: tokens.at(-1) === 0 ? 'eos' : 'length' })
      }
    }
  })

  it('gives running beams where nothing has finished yet', () => {
    const beams = new BeamSearch({ numBeams: 2, eosCount: 0, maxNewTokens: 9, lengthPenalty: 1, earlyStopping: false })
    expect(beams.results(2)).toEqual([{ tokens: [], score: 0, stop: null }])
    const scores = logProbsOf(5, 1)([])
    const candidates = beams.candidates([scores, scores])
    beams.commit(candidates, candidates.map(() => null))
    expect(beams.results(2).map((r) => r.tokens)).toEqual(candidates.slice(0, 2).map((c) => c.tokens))
    expect(beams.results(1)).toHaveLength(1)
  })

  it('draws its candidates when it samples: the same for the same numbers, others for others', () => {
    const setting = (seed: number): Setting => ({
      numBeams: 3, eosCount: 0, eos: [], maxNewTokens: 5, lengthPenalty: 1, earlyStopping: false,
      uniform: (step, draw) => ((step * 31 + draw * 17 + seed * 7) % 100) / 100,
    })
    const logProbs = logProbsOf(11, 3)
    expect(search(setting(1), logProbs, 3)).toEqual(search(setting(1), logProbs, 3))
    expect(search(setting(1), logProbs, 3)).not.toEqual(search(setting(2), logProbs, 3))
  })
})
