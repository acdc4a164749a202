import { parentPort, workerData } from 'node:worker_threads'
import { busyDevice } from './load.mjs'

const { device, out } = await busyDevice(2000)
const other = device.createQueue()
other.wait(device.queue.record())
void out.toFloat32Array().catch(() => undefined)
void other.synchronize().catch(() => undefined)
parentPort.postMessage(device.queue.pending)
if (workerData.exit) process.exit(0)
