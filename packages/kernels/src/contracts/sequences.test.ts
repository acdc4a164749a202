import { expect, it } from 'vitest'
import { openDevice } from '../device.js'
import { runSequences } from './sequences.js'

it('ops that follow each other see what the one before wrote: eagerly, in a graph, on a second queue', async () => {
  const device = await openDevice('cpu', { threads: 2 })
  const seen: string[] = []
  const { allocatedBytes } = device.memoryStats()
  const result = await runSequences(device, { repeats: 7, replays: 2, onCheck: (name, fault) => void seen.push(`${name}: ${fault}`) })
  await device.synchronize()
  expect(seen.filter((line) => !line.endsWith(': null'))).toEqual([])
  expect(result).toEqual({ checks: seen.length, failures: [] })
  expect(seen).toHaveLength(7 * 3 + 1)
  expect(device.memoryStats().allocatedBytes).toBe(allocatedBytes)
  await device.dispose()
})
