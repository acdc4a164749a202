// Leaves the process in the middle of a long op, in the way that the first argument names.
import { busyDevice } from './load.mjs'

const { device, out } = await busyDevice(20_000)
const read = out.toFloat32Array()
if (device.queue.pending === 0) throw new Error('not busy')
console.log('busy')
switch (process.argv[2]) {
  case 'exit':
    process.exit(0)
    break
  case 'throw':
    setImmediate(() => {
      throw new Error('thrown')
    })
    break
  case 'kill':
    process.kill(process.pid, 'SIGTERM')
    await read
    break
}
