// Starts workers, each with a device in the middle of long ops (or of what another file does), and terminates them at odd moments.
// Prints one JSON line.  node terminate.mjs ROUNDS [WORKER]
import { Worker } from 'node:worker_threads'

const rounds = Number(process.argv[2])
const worker = new URL(process.argv[3] ?? './busy-worker.mjs', import.meta.url)
const threadsBefore = await threadCount()
let busy = 0
for (let i = 0; i < rounds; i++) {
  const w = new Worker(worker, { workerData: { exit: i % 5 === 4 } })
  await new Promise((resolve, reject) => {
    w.once('error', reject)
    w.once('message', (pending) => {
      if (pending > 0) busy++
      resolve()
    })
  })
  // At once, after a turn of the loop, or a little into the op.
  if (i % 3 === 1) await new Promise(setImmediate)
  if (i % 3 === 2) await new Promise((resolve) => setTimeout(resolve, i % 7))
  await w.terminate()
}
console.log(JSON.stringify({ rounds, busy, threadsLeft: (await threadCount()) - threadsBefore }))

async function threadCount() {
  const { readdir } = await import('node:fs/promises')
  return (await readdir('/proc/self/task')).length
}
