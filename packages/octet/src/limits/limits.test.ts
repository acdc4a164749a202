import { expect, it } from 'vitest'
import { fixture } from '../testing/cli.test-helper.js'
import { runLimits } from './run-limits.js'

it('leaks nothing, refuses what cannot fit, and takes batches and prompts of any size', async () => {
  const seen: string[] = []
  const result = await runLimits({ device: 'cpu', model: fixture('fairy-llama'), cycles: 3, batches: [1, 5], prompts: [1, 65], repeats: 13, onCheck: (name, fault) => void seen.push(`${name}: ${fault}`) })
  expect(result).toEqual({ checks: 33, failures: [] })
  expect(seen.slice(0, 3)).toEqual(['3 loads leave no memory behind: null', 'a tensor that cannot fit is refused with its bytes: null', 'a cache that cannot fit is refused with its bytes: null'])
  expect(seen.filter((line) => line.startsWith('FP8 with an FP8 cache'))).toHaveLength(4)
})
