// A worker to which completions arrive without a pause.
import { parentPort } from 'node:worker_threads'
import { Tensor, fill, openDevice } from '../../dist/index.js'

const device = await openDevice('cpu', { threads: 1 })
const x = Tensor.zeros([64], { dtype: 'f32', device })
parentPort.postMessage(1)
for (;;) {
  const syncs = []
  for (let i = 0; i < 200; i++) {
    fill({ out: x, value: i })
    syncs.push(device.synchronize())
  }
  await Promise.all(syncs)
}
