/** `octet bench gemm`: the products of a model at decode and prefill sizes, each against its floor. */
import { linear, quantize, Tensor, type Device, type QuantizedTensor } from '@octet-llm/kernels'
import { describeDevice, measureCeilings, randomMatrix, rates, rotations, timeCalls, type BenchDevice, type Ceilings } from './device-timer.js'
import type { KernelShapes } from './shapes-of.js'

export interface GemmRow {
  readonly bench: 'gemm'
  readonly hardware: BenchDevice
  readonly ceilings: Ceilings
  readonly model: string
  readonly product: string
  readonly weights: 'bf16' | 'e4m3'
  readonly M: number
  readonly N: number
  readonly K: number
  /** The kernel that ran. */
  readonly variant: string
  readonly micros: number
  readonly best: number
  readonly spread: number
  readonly GBPerS: number
  readonly TFLOPPerS: number
  readonly floorMicros: number
  readonly share: number
}

export interface GemmBenchOptions {
  readonly shapes: KernelShapes
  /** M of each product. */
  readonly tokens: readonly number[]
  /** Weights by row and activations by token in e4m3 as well. */
  readonly fp8: boolean
  readonly signal: AbortSignal
}

export async function* benchGemm(device: Device, { shapes, tokens, fp8, signal }: GemmBenchOptions): AsyncGenerator<GemmRow> {
  const [hardware, ceilings] = [describeDevice(device), await measureCeilings(device)]
  for (const [product, N, K] of shapes.products) {
    // The head's logits are float32, and its weights stay bf16 unless asked.
    const head = product === 'lm_head'
    for (const weights of fp8 && !head ? (['bf16', 'e4m3'] as const) : (['bf16'] as const)) {
      const item = weights === 'e4m3' ? 1 : 2
      const sets = Array.from({ length: rotations(device, N * K * item) }, (_, i) => operand(device, N, K, i, weights))
      for (const M of head ? tokens.filter((m) => m <= 256) : tokens) {
        signal.throwIfAborted()
        const x = operand(device, M, K, 100, weights)
        const out = Tensor.empty([M, N], { dtype: head ? 'f32' : 'bf16', device })
        const timing = await timeCalls(device, sets.map((weight) => () => void linear({ x, weight, out })))
        const [bytes, flops] = [N * K * item + M * K * item + out.byteLength, 2 * M * N * K]
        yield { bench: 'gemm', hardware, ceilings, model: shapes.name, product, weights, M, N, K, variant: device.kernels().linear, ...timing, ...rates(timing, bytes, flops, ceilings, weights) }
        out.dispose()
        release(x)
      }
      for (const set of sets) release(set)
    }
  }
}

function operand(device: Device, rows: number, columns: number, stream: number, type: 'bf16' | 'e4m3'): Tensor | QuantizedTensor {
  const values = randomMatrix(device, rows, columns, stream)
  if (type === 'bf16') return values
  const quantized = quantize({ x: values, granularity: 'row' })
  values.dispose()
  return quantized
}

function release(operand: Tensor | QuantizedTensor): void {
  for (const t of operand instanceof Tensor ? [operand] : [operand.data, operand.scaleInv]) t.dispose()
}
