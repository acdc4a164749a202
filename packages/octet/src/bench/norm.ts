/** `octet bench norm`: RMSNorm with a residual sum, as it stands between two layers. */
import { rmsNorm, Tensor, type Device } from '@octet-llm/kernels'
import { describeDevice, measureCeilings, randomMatrix, rates, rotations, timeCalls, type BenchDevice, type Ceilings } from './device-timer.js'
import type { KernelShapes } from './shapes-of.js'

export interface NormRow {
  readonly bench: 'norm'
  readonly hardware: BenchDevice
  readonly ceilings: Ceilings
  readonly model: string
  readonly N: number
  readonly D: number
  readonly residual: boolean
  readonly variant: string
  readonly micros: number
  readonly best: number
  readonly spread: number
  readonly GBPerS: number
  readonly floorMicros: number
  readonly share: number
}

export interface NormBenchOptions {
  readonly shapes: KernelShapes
  /** Rows of each run. */
  readonly tokens: readonly number[]
  readonly signal: AbortSignal
}

export async function* benchNorm(device: Device, { shapes, tokens, signal }: NormBenchOptions): AsyncGenerator<NormRow> {
  const [hardware, ceilings] = [describeDevice(device), await measureCeilings(device)]
  const D = shapes.hiddenSize
  const weight = Tensor.from(new Float32Array(D).fill(1), { shape: [D], dtype: 'f32', device })
  for (const N of tokens) {
    for (const residual of [false, true]) {
      signal.throwIfAborted()
      const bytes = (residual ? 4 : 2) * N * D * 2 + 4 * D
      const sets = Array.from({ length: rotations(device, bytes) }, (_, i) => [randomMatrix(device, N, D, 4 * i, 1), randomMatrix(device, N, D, 4 * i + 1, 1), randomMatrix(device, N, D, 4 * i + 2), randomMatrix(device, N, D, 4 * i + 3)] as const)
      const calls = sets.map(([x, added, out, residualOut]) => () => void rmsNorm({ x, weight, eps: 1e-5, out, ...(residual ? { residual: added, residualOut } : {}) }))
      const timing = await timeCalls(device, calls)
      const { GBPerS, floorMicros, share } = rates(timing, bytes, 0, ceilings, 'bf16')
      yield { bench: 'norm', hardware, ceilings, model: shapes.name, N, D, residual, variant: device.kernels().rmsNorm, ...timing, GBPerS, floorMicros, share }
      for (const t of sets.flat()) t.dispose()
    }
  }
  weight.dispose()
}
