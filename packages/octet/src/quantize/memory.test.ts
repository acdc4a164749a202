import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openDevice } from '@octet-llm/kernels'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { fixture } from '../testing/cli.test-helper.js'
import { writeLlama } from '../testing/random-checkpoint.test-helper.js'

const MB = 1e6
const CONFIG = { model_type: 'llama', torch_dtype: 'bfloat16', vocab_size: 1024, hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 6, num_attention_heads: 8, num_key_value_heads: 4, max_position_embeddings: 256 }
/** Elements of the projections of all layers, and of the largest tensor. */
const PROJECTIONS = 6 * (2 * 1024 * 1024 + 2 * 1024 * 512 + 3 * 1024 * 4096)
const LARGEST = 4096 * 1024
const SHARD = 16 * MB
/** Rounding of the allocator, the heap of the process, and what the system counts late. */
const SLACK = 32 * MB

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'octet-memory-'))
  const device = await openDevice('cpu')
  await writeLlama(join(dir, 'model'), CONFIG, device, '16MB')
  await device.dispose()
})
afterAll(() => rm(dir, { recursive: true, force: true }))

interface Peak {
  readonly rss: number
  readonly allocatedBytes: number
  readonly peakAllocatedBytes: number
  readonly weightsBytes: number
}

/** In a child process: the peak of a process never falls. */
async function peak(...args: string[]): Promise<Peak> {
  const child = fork(fileURLToPath(new URL('../testing/load-model.test-child.mjs', import.meta.url)), args)
  const [message] = (await once(child, 'message')) as [Peak]
  await once(child, 'exit')
  return message
}

it('loading in FP8 takes the FP8 model and one shard at its peak, and quantizing no more', async () => {
  const idle = (await peak('bf16', fixture('variants/llama-rope3'))).rss
  const bf16 = await peak('bf16', join(dir, 'model'))
  const fp8 = await peak('fp8', join(dir, 'model'))
  // By row: one byte an element, four a row.
  expect(bf16.weightsBytes - fp8.weightsBytes).toBeGreaterThan(0.98 * PROJECTIONS)
  expect(fp8.weightsBytes - (bf16.weightsBytes - 2 * PROJECTIONS)).toBeLessThanOrEqual(0.52 * 2 * PROJECTIONS)
  // On the device: one tensor on its way, in bf16.
  expect(fp8.peakAllocatedBytes - fp8.allocatedBytes).toBeLessThanOrEqual(1.2 * 2 * LARGEST)
  expect(fp8.allocatedBytes).toBeLessThan(1.15 * fp8.weightsBytes)
  // Of the process: the bound would not hold for a load that keeps the bf16 weights for a moment.
  const bound = fp8.weightsBytes + SHARD + SLACK
  expect(bound).toBeLessThan(0.85 * bf16.weightsBytes)
  expect(fp8.rss - idle).toBeLessThan(bound)
  expect(bf16.rss - idle).toBeGreaterThan(bound)
  const quantized = await peak('quantize', join(dir, 'model'), join(dir, 'output'))
  expect(quantized.peakAllocatedBytes).toBe(fp8.peakAllocatedBytes)
  // Pieces that were written wait for the garbage collector.
  expect(quantized.rss - idle).toBeLessThan(bound + SLACK)
  const again = await peak('fp8', join(dir, 'output'))
  expect(again.weightsBytes).toBe(fp8.weightsBytes)
  expect(again.peakAllocatedBytes - again.allocatedBytes).toBeLessThan(1 * MB)
}, 120_000)
