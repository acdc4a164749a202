import { argmax, gatherRows, logSoftmax, sample, scope, Tensor, type Device } from '@octet-llm/kernels'
import type { DeviceOps } from './device-ops.js'

/** Reads a tensor of ids and frees it. */
async function take(ids: Tensor): Promise<Int32Array> {
  try {
    return await ids.toInt32Array()
  } finally {
    ids.dispose()
  }
}

/** {@link DeviceOps} by the ops of `@octet-llm/kernels`. */
export function kernelOps(device: Device): DeviceOps {
  const upload = (values: Int32Array): Tensor => Tensor.from(values, { shape: [values.length], dtype: 'i32', device })
  return {
    upload,
    gather(x, rows) {
      const index = upload(rows)
      try {
        return gatherRows({ x, rows: index })
      } finally {
        index.dispose()
      }
    },
    logSoftmax: (x) => logSoftmax({ x }),
    argmax: (x) => take(argmax({ x })),
    sample(x, { temperature, topK, topP, minP }, seed, draws) {
      return take(scope(() => {
        const sequenceIds = upload(Int32Array.from(draws, (d) => d.sequence))
        const positions = upload(Int32Array.from(draws, (d) => d.position))
        return sample({ logits: x, sequenceIds, positions, seed, temperature, topK, topP, minP })
      }))
    },
  }
}
