/** Ops whose output rows depend on one input row each: that row's bytes in any company, place and thread count. */
import type { Device } from '../device.js'
import { Tensor } from '../tensor.js'
import type { InvarianceCase, Variant } from './contract.js'
import { encode, host, values, type HostTensor, type Random } from './host.js'

const ROWS = 12

/**
 * `call(x [N, width], fixed, out [N, outWidth])`; `fixed` is the same for every row (a norm's weight) and may go unused.
 * Other rows of a batch are large, so that a leak between rows shows.
 */
export function rowInvariance(name: string, width: number, outWidth: number, call: (x: Tensor, fixed: Tensor, out: Tensor) => void, fixedShape: readonly number[] = [width]): InvarianceCase {
  return {
    name,
    quick: true,
    variants(random: Random): Variant[] {
      const x = values(random, 'f32', [ROWS, width])
      const fixed = values(random, 'f32', fixedShape)
      const run = (label: string, order: readonly number[], noise: number, threads?: number): Variant => ({
        label,
        ...(threads === undefined ? {} : { threads }),
        rows: (device) => rowsOf(device, x, fixed, order, noise, outWidth, call),
      })
      const all = Array.from({ length: ROWS }, (_, i) => i)
      return [
        ...all.map((i) => run(`row ${i} alone`, [i], 0)),
        run('one batch', all, 0),
        run('one batch, one thread', all, 0, 1),
        run('one batch, three threads', all, 0, 3),
        run('reversed', all.toReversed(), 0),
        run('between other rows', all, 3),
        run('first five', all.slice(0, 5), 1, 3),
      ]
    },
  }
}

/** The rows `order` of x, each followed by `noise` rows of large numbers, in one call. */
async function rowsOf(device: Device, x: HostTensor, fixed: HostTensor, order: readonly number[], noise: number, outWidth: number, call: (x: Tensor, fixed: Tensor, out: Tensor) => void): Promise<Map<string, Uint8Array>> {
  const width = x.shape[1]!
  const step = 1 + noise
  const data = new Float64Array(order.length * step * width).fill(1e20)
  order.forEach((row, i) => data.set(x.values.subarray(row * width, (row + 1) * width), i * step * width))
  const rows = order.length * step
  const tensors = [
    Tensor.fromBytes(encode(host('f32', [rows, width], data)), { shape: [rows, width], dtype: 'f32', device }),
    Tensor.fromBytes(encode(fixed), { shape: fixed.shape, dtype: 'f32', device }),
    Tensor.empty([rows, outWidth], { dtype: 'f32', device }),
  ] as const
  call(...tensors)
  const bytes = await tensors[2].toBytes()
  for (const tensor of tensors) tensor.dispose()
  return new Map(order.map((row, i) => [`row ${row}`, bytes.subarray(i * step * outWidth * 4, (i * step + 1) * outWidth * 4)]))
}
