// Loads or quantizes a model in a process of its own and reports the peak of its memory, in bytes.
import { openDevice } from '@octet-llm/kernels'
import { loadModel, quantizeCheckpoint } from '../../dist/index.js'

const [how, source, output] = process.argv.slice(2)
const device = await openDevice('cpu', { threads: 1 })
if (how === 'quantize') await quantizeCheckpoint(source, output, { device, maxShardSize: '16MB' })
const llm = how === 'quantize' ? null : await loadModel(source, { device, fp8: how === 'fp8' })
await device.synchronize()
const { allocatedBytes, peakAllocatedBytes } = device.memoryStats()
process.send({ rss: process.resourceUsage().maxRSS * 1024, allocatedBytes, peakAllocatedBytes, weightsBytes: llm?.model.memory().weightsBytes ?? 0 })
await llm?.dispose()
await device.dispose()
process.disconnect()
