// Saves one checkpoint after another into a folder, now sharded and now not, until it is killed.
import { saveCheckpoint } from '../../dist/checkpoint/index.js'

const dir = process.argv[2]
const save = (version) => {
  const tensors = Array.from({ length: 6 }, (_, i) => ({ name: `t${i}`, dtype: 'f32', shape: [50_000], data: new Float32Array(50_000).fill(version) }))
  return saveCheckpoint(dir, tensors, { maxShardSize: version % 3 === 0 ? '5GB' : 400_000 * (version % 3), config: { version } })
}

const start = (Date.now() % 1_000_000) * 3
await save(start)
process.send('saved')
for (let version = start + 1; ; version++) await save(version)
