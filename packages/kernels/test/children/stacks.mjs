// Prints where a failed op was enqueued; run with OCTET_DEBUG=stacks.
import { Tensor, embedding, openDevice } from '../../dist/index.js'

const device = await openDevice('cpu', { threads: 1 })
const ids = Tensor.from([9], { dtype: 'i32', device })
const table = Tensor.zeros([2, 2], { dtype: 'f32', device })
function theCulprit() {
  embedding({ ids, table })
}
theCulprit()
await device.synchronize().catch((error) => console.log(String(error.cause?.message ?? 'no stack')))
