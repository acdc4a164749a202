// What the child processes and workers share: a device kept busy with long ops, as a prefill does.
import { Tensor, linear, openDevice } from '../../dist/index.js'

/** Enqueues `count` matrix products of some tens of milliseconds each. */
export async function busyDevice(count, options = {}) {
  const device = await openDevice('cpu', { threads: 2, ...options })
  const x = Tensor.zeros([512, 2048], { dtype: 'f32', device })
  const weight = Tensor.zeros([2048, 2048], { dtype: 'f32', device })
  const out = Tensor.empty([512, 2048], { dtype: 'f32', device })
  for (let i = 0; i < count; i++) linear({ x, weight, out })
  return { device, x, weight, out }
}
