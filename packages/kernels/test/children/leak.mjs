// Drops tensors without dispose(); run with --expose-gc.
import { Tensor, openDevice, scope } from '../../dist/index.js'

const device = await openDevice('cpu', { threads: 1 })
let warnings = 0
process.on('warning', (warning) => {
  if (warning.code === 'OCTET_TENSOR_LEAK') warnings++
})
async function collect() {
  for (let i = 0; i < 10; i++) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
scope(() => void Tensor.zeros([100], { dtype: 'f32', device }))
Tensor.zeros([100], { dtype: 'f32', device }).dispose()
await collect()
const clean = warnings
for (let i = 0; i < 5; i++) Tensor.zeros([100], { dtype: 'f32', device })
await collect()
console.log(JSON.stringify({ clean, warnings }))
