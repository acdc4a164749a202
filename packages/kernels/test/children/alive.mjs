// A pending read keeps the process alive; an open, idle device does not.
import { busyDevice } from './load.mjs'

const { out } = await busyDevice(10)
out.toFloat32Array().then((values) => console.log(`read ${values.length}`))
