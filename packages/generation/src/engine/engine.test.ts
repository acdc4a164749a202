import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { resolveGenerationConfig, type GenerationOptions } from '../config/generation-config.js'
import { FakeModel, type FakeOptions } from '../testing/fake-model.test.helper.js'
import { referenceBeams, referenceRow } from '../testing/reference.test.helper.js'
import type { DeviceOps } from './device-ops.js'
import { Engine, type EngineOptions } from './engine.js'
import type { EngineRequest } from './task.js'

vi.mock('./kernel-ops.js', () => ({ kernelOps: (device: { ops: DeviceOps }) => device.ops }))

function request(tokens: readonly number[], maxNewTokens: number, call: GenerationOptions = {}, rest: Partial<EngineRequest> = {}): EngineRequest {
  const config = resolveGenerationConfig({ call })
  return { tokens, config, maxNewTokens, eosTokenIds: config.eosTokenId, seed: 9, sequence: 0, ...rest }
}

function open(options: Partial<EngineOptions> = {}, fakeOptions: FakeOptions = {}) {
  const fake = new FakeModel(fakeOptions)
  return { fake, engine: new Engine(fake.model, { maxBatchSize: 6, maxSequenceLength: 40, ...options }) }
}

async function drain(engine: Engine): Promise<void> {
  for (let guard = 0; await engine.step(); guard++) expect(guard).toBeLessThan(500)
}

describe('Engine', () => {
  it('gives every request what it would have alone, whenever requests arrive and leave', async () => {
    const arrival = fc.record({
      step: fc.integer({ min: 0, max: 12 }),
      tokens: fc.array(fc.integer({ min: 2, max: 22 }), { minLength: 1, maxLength: 10 }),
      maxNewTokens: fc.integer({ min: 1, max: 9 }),
      call: fc.constantFrom<GenerationOptions>({ eosTokenId: 3 }, { doSample: true, temperature: 2 }, { numBeams: 3, eosTokenId: 3 }, { repetitionPenalty: 2 }),
      leaves: fc.option(fc.integer({ min: 1, max: 6 })),
      sequence: fc.integer({ min: 0, max: 5 }),
    })
    const cache = fc.record({ maxBatchSize: fc.integer({ min: 3, max: 8 }), prefillChunkSize: fc.option(fc.integer({ min: 1, max: 9 })), totalNumPages: fc.integer({ min: 15, max: 40 }) })
    await fc.assert(fc.asyncProperty(fc.array(arrival, { minLength: 1, maxLength: 8 }), cache, fc.boolean(), async (arrivals, limits, reversed) => {
      const { fake, engine } = open({ ...limits, isPaged: true, pageSize: 4 }, { reversed })
      const handles = new Map<number, ReturnType<Engine['add']>>()
      for (let step = 0; step < 13 || engine.pending > 0; step++) {
        arrivals.forEach((a, i) => {
          if (a.step === step) handles.set(i, engine.add(request(a.tokens, a.maxNewTokens, a.call, { sequence: a.sequence })))
          if (a.leaves !== null && a.step + a.leaves === step) engine.remove(handles.get(i)!)
        })
        await engine.step()
        expect(engine.rows).toBeLessThanOrEqual(limits.maxBatchSize)
      }
      arrivals.forEach((a, i) => {
        const { outcomes, done } = handles.get(i)!
        expect(done).toBe(true)
        const options = { ...a.call, ...(a.call.eosTokenId === undefined ? {} : { eosTokenId: [3] }), maxNewTokens: a.maxNewTokens, seed: 9, sequence: a.sequence } as Parameters<typeof referenceRow>[2]
        const whole = a.call.numBeams === undefined ? referenceRow(fake.logitsOf, a.tokens, options) : referenceBeams(fake.logitsOf, a.tokens, options)[0]!.tokens
        if (outcomes[0]!.finishReason !== 'aborted') expect(outcomes[0]!.tokens).toEqual(whole)
        else if (a.call.numBeams === undefined) expect(whole.slice(0, outcomes[0]!.tokens.length)).toEqual(outcomes[0]!.tokens)
        if (a.leaves === null) expect(outcomes[0]!.finishReason).not.toBe('aborted')
      })
      expect(fake.released).toBe(true)
    }), { numRuns: 150 })
  })

  it('keeps the cache empty while idle and goes on afterwards', async () => {
    const { fake, engine } = open()
    engine.add(request([3, 4], 2))
    await drain(engine)
    expect(fake.released).toBe(true)
    expect(fake.caches[0]!.resets).toBe(1)
    expect(await engine.step()).toBe(false)
    const handle = engine.add(request([5], 2))
    await drain(engine)
    expect(handle.outcomes[0]!.tokens).toEqual(referenceRow(fake.logitsOf, [5], { maxNewTokens: 2 }))
    expect(fake.caches).toHaveLength(1)
  })

  it('frees the rows of a request that is removed: at once when it was the only one', async () => {
    const { fake, engine } = open()
    const first = engine.add(request([3, 4], 20))
    const second = engine.add(request([5], 20))
    await engine.step()
    engine.remove(first)
    expect(first).toMatchObject({ done: true, failed: false, outcomes: [{ finishReason: 'aborted' }] })
    expect(first.outcomes[0]!.tokens).toHaveLength(1)
    await engine.step()
    expect([...fake.caches[0]!.held.keys()]).toHaveLength(1)
    engine.remove(second)
    expect(fake.released).toBe(true)
    engine.remove(second)
    expect(engine.pending).toBe(0)
  })

  it('lets a request be removed by its own listener, and while a step runs', async () => {
    const { fake, engine } = open()
    const self: ReturnType<Engine['add']> = engine.add(request([3], 20, {}, { onToken: () => engine.remove(self) }))
    const other = engine.add(request([4], 5))
    const step = engine.step()
    engine.remove(other)
    await step
    expect(self.outcomes[0]).toMatchObject({ finishReason: 'aborted' })
    expect(self.outcomes[0]!.tokens).toHaveLength(1)
    expect(other.outcomes[0]).toEqual({ tokens: [], finishReason: 'aborted' })
    expect(engine.pending).toBe(0)
    expect(fake.released).toBe(true)
  })

  it('fails one request alone when its own function throws', async () => {
    const { fake, engine } = open()
    const boom = new Error('boom')
    let calls = 0
    const bad = engine.add(request([3], 9, {}, { processors: [() => { if (++calls === 2) throw boom }] }))
    const good = engine.add(request([4], 5))
    await drain(engine)
    expect(bad).toMatchObject({ done: true, failed: true, error: boom })
    expect(good).toMatchObject({ done: true, failed: false, error: undefined })
    expect(good.outcomes[0]!.tokens).toEqual(referenceRow(fake.logitsOf, [4], { maxNewTokens: 5 }))
    expect(fake.released).toBe(true)
  })

  it('fails every live request when the model does, and serves the waiting ones', async () => {
    const boom = new Error('boom')
    const { fake, engine } = open({ maxBatchSize: 2 }, { onStep: (step) => { if (step === 1) throw boom } })
    const [a, b, c] = [[3], [4], [5]].map((tokens) => engine.add(request(tokens, 3)))
    await drain(engine)
    expect([a!.error, b!.error, c!.error]).toEqual([boom, boom, undefined])
    expect(c!.outcomes[0]!.tokens).toEqual(referenceRow(fake.logitsOf, [5], { maxNewTokens: 3 }))
    expect(fake.released).toBe(true)
  })

  it('serves in order of arrival: a small request does not overtake a large one', async () => {
    const { engine } = open({ maxBatchSize: 3 })
    const first = engine.add(request([3], 2))
    const beams = engine.add(request([4], 2, { numBeams: 3 }))
    const last = engine.add(request([5], 2))
    await engine.step()
    expect([first, beams, last].map((h) => h.prefilled)).toEqual([true, false, false])
    await drain(engine)
    expect([first, beams, last].every((h) => h.done)).toBe(true)
  })

  it('chooses alike-configured rows in one op and the others in theirs', async () => {
    const { fake, engine } = open()
    engine.add(request([3], 1))
    engine.add(request([4], 1, { doSample: true }))
    engine.add(request([5], 1, { doSample: true, topP: 0.5 }))
    engine.add(request([6], 1, { repetitionPenalty: 2 }))
    engine.add(request([7], 1))
    await drain(engine)
    expect(fake.opCalls.filter((op) => op !== 'gather').sort()).toEqual(['argmax', 'sample', 'sample'])
    expect(fake.opCalls.filter((op) => op === 'gather')).toHaveLength(4)
  })

  it('reports tokens in order of arrival, whatever op chose them', async () => {
    const { engine } = open()
    const seen: number[] = []
    const modes: GenerationOptions[] = [{ repetitionPenalty: 2 }, {}, { doSample: true }, { repetitionPenalty: 2 }, {}]
    modes.forEach((call, i) => engine.add(request([3 + i], 1, call, { onToken: () => seen.push(i) })))
    await drain(engine)
    expect(seen).toEqual([0, 1, 2, 3, 4])
  })

  it('refuses what can never fit, a second step at a time, and use after dispose', async () => {
    const { fake, engine } = open({ maxBatchSize: 2, maxSequenceLength: 10, isPaged: true, pageSize: 4, totalNumPages: 2 })
    const refused = (r: EngineRequest): unknown => {
      try {
        return engine.add(r)
      } catch (error) {
        return error
      }
    }
    expect(refused(request([3], 11))).toMatchObject({ code: 'CONTEXT_TOO_LONG', argument: 'tokens' })
    expect(refused(request([3], 3, { numBeams: 3 }))).toMatchObject({ code: 'CONTEXT_TOO_LONG', argument: 'numBeams' })
    expect(refused(request([3], 9))).toMatchObject({ code: 'CONTEXT_TOO_LONG', argument: 'pages' })
    expect(refused(request([3], 3, { stopStrings: 'x' }))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'stopStrings' })
    expect(refused(request([], 3))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'tokens.length' })
    expect(refused(request([3], 0))).toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'maxNewTokens' })
    const handle = engine.add(request([3], 8))
    const step = engine.step()
    await expect(engine.step()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await step
    engine.dispose()
    engine.dispose()
    expect(handle.outcomes[0]!.finishReason).toBe('aborted')
    expect(fake.caches[0]!.disposed).toBe(true)
    await expect(engine.step()).rejects.toMatchObject({ code: 'DISPOSED' })
    expect(refused(request([3], 1))).toMatchObject({ code: 'DISPOSED' })
  })
})
