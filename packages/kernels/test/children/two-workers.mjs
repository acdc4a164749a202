// Two workers compute at once, each on its own device; prints their checksums.
import { Worker, isMainThread, parentPort } from 'node:worker_threads'
import { fileURLToPath } from 'node:url'
import { Tensor, linear, openDevice } from '../../dist/index.js'

async function compute() {
  const device = await openDevice('cpu', { threads: 2 })
  const values = Float32Array.from({ length: 256 * 256 }, (_, i) => ((i * 31) % 17) / 16)
  let x = Tensor.from(values, { shape: [256, 256], dtype: 'f32', device })
  const weight = Tensor.from(values.map((v) => v / 128), { shape: [256, 256], dtype: 'f32', device })
  for (let i = 0; i < 200; i++) {
    const next = linear({ x, weight })
    x.dispose()
    x = next
  }
  const sum = (await x.toFloat32Array()).reduce((a, b) => a + b, 0)
  await device.dispose()
  return sum
}

if (isMainThread) {
  const run = () =>
    new Promise((resolve, reject) => {
      const w = new Worker(fileURLToPath(import.meta.url))
      w.once('message', resolve)
      w.once('error', reject)
    })
  console.log(JSON.stringify(await Promise.all([compute(), run(), run()])))
} else {
  parentPort.postMessage(await compute())
}
