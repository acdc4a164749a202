import { expect } from 'vitest'
import { generateTokens, type GenerateTokensOptions } from '../generate.js'
import type { GenerateOutput } from '../output.js'
import { FakeModel, type FakeOptions } from './fake-model.test.helper.js'

export const PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]

/** Generates on a fake model of its own and checks that everything is free afterwards. */
export async function run(options: GenerateTokensOptions, fakeOptions: FakeOptions = {}): Promise<{ output: GenerateOutput; fake: FakeModel }> {
  const fake = new FakeModel(fakeOptions)
  const output = await generateTokens(fake.model, options)
  expect(fake.released).toBe(true)
  expect(fake.caches.every((c) => c.disposed)).toBe(true)
  return { output, fake }
}

/** What a promise rejects with. */
export async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(() => expect.unreachable('nothing was thrown'), (error: unknown) => error)
}
