import { openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { resolveFp8 } from './fp8/inference.js'
import { Vocabulary, type VocabularyOptions } from './vocabulary.js'
import { noise } from './testing/layer.test.util.js'
import { Workspace } from './workspace.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu')))
afterAll(() => device.dispose())

const V = 6
const D = 4
const TABLE = noise(V * D, 1)
const HEAD = noise(V * D, 2)
const X = noise(2 * D, 3)

/** x · weightᵀ in float64. */
const products = (weight: Float32Array) => Array.from({ length: 2 * V }, (_, i) => Array.from({ length: D }, (_unused, d) => X[Math.floor(i / V) * D + d]! * weight[(i % V) * D + d]!).reduce((sum, v) => sum + v, 0))

function make(options: Partial<VocabularyOptions> = {}): Vocabulary {
  const vocabulary = new Vocabulary({ device, dtype: 'f32', info: { vocabSize: V, hiddenSize: D }, tieWordEmbeddings: true, ...options })
  vocabulary.embedding.tensor.write(TABLE)
  return vocabulary
}

async function logitsOf(vocabulary: Vocabulary): Promise<number[]> {
  const workspace = new Workspace(device)
  const x = Tensor.from(X, { shape: [2, D], dtype: 'f32', device })
  const logits = vocabulary.project(x, workspace, undefined)
  expect(logits.shape).toEqual([2, V])
  const values = [...(await logits.toFloat32Array())]
  for (const owned of [x, logits, workspace, vocabulary]) owned.dispose()
  return values
}
const expectClose = (values: readonly number[], wanted: readonly number[], bound: number) => values.forEach((v, i) => expect(Math.abs(v - wanted[i]!), `logit ${i}`).toBeLessThan(bound))

describe('Vocabulary', () => {
  it('gives rows of its table, times the scale', async () => {
    const vocabulary = make({ embeddingScale: 3 })
    const ids = Tensor.from(Int32Array.of(5, 0, 5), { shape: [3], dtype: 'i32', device })
    const out = Tensor.empty([3, D], { dtype: 'f32', device })
    expect(vocabulary.embed(ids, out)).toBe(out)
    const row = (i: number) => [...TABLE.subarray(i * D, (i + 1) * D)].map((v) => Math.fround(v * 3))
    expect([...(await out.toFloat32Array())]).toEqual([...row(5), ...row(0), ...row(5)])
    for (const owned of [ids, out, vocabulary]) owned.dispose()
  })

  it('multiplies by the table where the head is tied, by the head where not', async () => {
    const tied = make()
    expect(tied.head).toBeUndefined()
    expectClose(await logitsOf(tied), products(TABLE), 1e-6)
    const untied = make({ tieWordEmbeddings: false })
    untied.head!.weight.tensor.write(HEAD)
    untied.finishLoading()
    expectClose(await logitsOf(untied), products(HEAD), 1e-6)
  })

  it('caps logits', async () => {
    expectClose(await logitsOf(make({ finalLogitSoftcapping: 0.5 })), products(TABLE).map((v) => Math.tanh(v / 0.5) * 0.5), 1e-6)
  })

  it('a tied head in FP8 has codes of its own once the table is loaded', async () => {
    const vocabulary = make({ fp8: resolveFp8({ fp8LmHead: true }, false) })
    vocabulary.finishLoading()
    const values = await logitsOf(vocabulary)
    // Two roundings to e4m3, each at most 2^-4 of a factor.
    expectClose(values, products(TABLE), D * 0.13)
    expect(values.some((v, i) => Math.abs(v - products(TABLE)[i]!) > 1e-4)).toBe(true)
  })

  it('random weights: table and head differ, and follow the seed', async () => {
    const values = async (seed: number) => {
      const vocabulary = make({ tieWordEmbeddings: false })
      vocabulary.initialize(seed, 0.1)
      const both = [[...(await vocabulary.embedding.tensor.toFloat32Array())], [...(await vocabulary.head!.weight.tensor.toFloat32Array())]]
      vocabulary.dispose()
      return both
    }
    const first = await values(1)
    expect(first[0]).not.toEqual(first[1])
    expect(await values(1)).toEqual(first)
    expect(await values(2)).not.toEqual(first)
  })

  it('frees both ends', () => {
    const before = device.memoryStats().allocatedBytes
    make({ tieWordEmbeddings: false }).dispose()
    expect(device.memoryStats().allocatedBytes).toBe(before)
  })
})
