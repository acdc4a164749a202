import type { Device } from '../device.js'
import { enqueue } from '../enqueue.js'
import { Tensor } from '../tensor.js'

/** Where no allocation lies, on any machine: the page of the null pointer. */
const NOWHERE = 256

/**
 * Enqueues a kernel that writes far outside every allocation, as a broken one would: on a GPU the driver then ends the
 * device's context. For checks of what follows; never on a CPU device, whose process would end.
 */
export function writeAstray(device: Device): void {
  const real = Tensor.empty([4], { dtype: 'f32', device })
  const astray = Object.create(real, {
    encode: {
      value(scratch: Float64Array, at: number) {
        real.encode(scratch, at)
        scratch[at] = NOWHERE
      },
    },
  }) as Tensor
  enqueue(device.queue, 'fill', [astray], [1])
  real.dispose()
}
