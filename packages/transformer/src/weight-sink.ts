import type { QuantizedSource, WeightSink, WeightSlot } from '@octet-llm/core'
import { dequantize, Tensor, upload } from '@octet-llm/kernels'

/**
 * A sink that reads each checkpoint tensor straight into its parameter, converting the dtype on the way; FP8 tensors are
 * de-quantized. Nothing but the tensor in flight is held twice.
 * @param target the parameter of a slot
 */
export function weightSink(target: (slot: WeightSlot) => Tensor, signal?: AbortSignal): WeightSink {
  return {
    async accept(slot, source) {
      const out = target(slot)
      if ('data' in source) await uploadQuantized(source, out, signal)
      else await upload(source, out, { signal })
    },
  }
}

async function uploadQuantized(source: QuantizedSource, out: Tensor, signal: AbortSignal | undefined): Promise<void> {
  const { device } = out
  const data = Tensor.empty(source.data.shape, { dtype: source.data.dtype as 'e4m3', device })
  const scaleInv = Tensor.empty(source.scaleInv.shape, { dtype: 'f32', device })
  try {
    await upload(source.data, data, { signal })
    await upload(source.scaleInv, scaleInv, { signal })
    dequantize({ x: { data, scaleInv, granularity: source.granularity }, out })
  } finally {
    data.dispose()
    scaleInv.dispose()
  }
}
