import { itemSize } from '@octet-llm/core'
import { rmsNorm as op } from '../ops/rms-norm.js'
import { PLACEMENTS, type ContractCase, type InvarianceCase, type OpContract, type PerfCase } from './contract.js'
import { ACTIVATIONS, VALUES, WIDTHS, product, rms, sampled } from './host.js'
import { EMPTY, ROW_GRANULARITIES, quantizedCase } from './quantized-cases.js'
import { RESIDUALS, arrange, byRows, optional, rmsRow } from './norm-cases.js'
import { rowInvariance } from './row-invariance.js'

const FORMS = ['plain', 'gemma', 'llama', 'both'] as const

function* cases(): Generator<ContractCase> {
  let index = 0
  const axes = { x: ACTIVATIONS, weight: ACTIVATIONS, out: ACTIVATIONS, D: [...WIDTHS, 2048, 5000], values: VALUES, placement: PLACEMENTS, residual: RESIDUALS, form: FORMS }
  for (const { name, at } of product(axes)) {
    const eps = at.values === 'zero' ? 1e-5 : 1e-6
    yield {
      name,
      quick: sampled(index++, at.D > 1000 ? 400 : 150),
      make(random) {
        const { weight, sums, inputs, outputs, sumOutput } = arrange(random, at, at.D > 1000 ? 2 : 3)
        const zeroCenteredGamma = at.form === 'gemma' || at.form === 'both'
        const castBeforeWeight = at.form === 'llama' || at.form === 'both'
        return {
          inputs,
          outputs,
          call: (t) => void op({ x: t.x!, weight: t.weight!, eps, zeroCenteredGamma, castBeforeWeight, ...optional(t) }),
          expected: () => ({
            out: { ...byRows(sums, at.D, (s) => rmsRow(s, weight.values, eps, zeroCenteredGamma, castBeforeWeight ? at.out : null)), ...(castBeforeWeight ? {} : rms(at.values, 4)) },
            ...sumOutput(),
          }),
        }
      },
    }
  }
}

/** Rows enough for all threads to be at work at once. */
function* busy(): Generator<ContractCase> {
  const at = { x: 'f32', weight: 'f32', out: 'f32', D: 2048, values: 'normal', placement: 'plain', residual: 'inout' } as const
  yield {
    name: 'x=f32 N=400 D=2048',
    quick: true,
    make(random) {
      const { weight, sums, inputs, outputs, sumOutput } = arrange(random, at, 400)
      return {
        inputs,
        outputs,
        call: (t) => void op({ x: t.x!, weight: t.weight!, eps: 1e-6, ...optional(t) }),
        expected: () => ({ out: { ...byRows(sums, at.D, (s) => rmsRow(s, weight.values, 1e-6, false, null)), rms: 4 }, ...sumOutput() }),
      }
    },
  }
}

/** The result in FP8: rounded to x's dtype, then quantized. */
function* quantized(): Generator<ContractCase> {
  let index = 0
  const axes = { x: ACTIVATIONS, D: [1, 7, 16, 128, 129, 300, 1000, 3072, 4096], placement: PLACEMENTS, residual: RESIDUALS, form: ['plain', 'gemma', 'llama'] as const, granularity: ROW_GRANULARITIES, powerOf2: [false, true] }
  for (const { name, at } of product(axes)) {
    yield {
      name: `quantized ${name}`,
      quick: sampled(index++, at.D > 1000 ? 60 : 30),
      make(random) {
        const rows = 3
        const { weight, sums, inputs, outputs, sumOutput } = arrange(random, { ...at, weight: 'f32', out: at.x, values: 'normal' }, rows)
        const { out: _, ...others } = outputs
        const fp8 = quantizedCase(random, at, rows, at.D)
        const [zeroCenteredGamma, castBeforeWeight] = [at.form === 'gemma', at.form === 'llama']
        return {
          inputs: { ...inputs, ...fp8.inputs },
          outputs: { ...others, ...fp8.outputs },
          call: (t) => void op({ x: t.x!, weight: t.weight!, eps: 1e-6, zeroCenteredGamma, castBeforeWeight, ...(t.residual && { residual: t.residual }), ...(t.residualOut && { residualOut: t.residualOut }), quantized: fp8.target(t) }),
          expected: () => ({ ...fp8.expected(byRows(sums, at.D, (s) => rmsRow(s, weight.values, 1e-6, zeroCenteredGamma, castBeforeWeight ? at.x : null))), ...sumOutput() }),
        }
      },
    }
  }
}

/** No elements to quantize: the scales are written all the same. */
function* empty(): Generator<ContractCase> {
  for (const { name, at } of product({ x: ACTIVATIONS, granularity: ROW_GRANULARITIES, epsilon: [0, 5], shape: EMPTY.map(([n, d]) => `${n}x${d}`), residual: ['none', 'inout'] as const })) {
    const [rows, cols] = at.shape.split('x').map(Number) as [number, number]
    yield {
      name: `quantized ${name}`,
      quick: true,
      make(random) {
        const { inputs, outputs } = arrange(random, { ...at, weight: 'f32', out: at.x, D: cols, values: 'normal', placement: 'plain' }, rows)
        const { out: _, ...others } = outputs
        const fp8 = quantizedCase(random, { ...at, powerOf2: false, placement: 'plain' }, rows, cols)
        const nothing = { values: new Float64Array(0) }
        return {
          inputs: { ...inputs, ...fp8.inputs },
          outputs: { ...others, ...fp8.outputs },
          call: (t) => void op({ x: t.x!, weight: t.weight!, ...(t.residual && { residual: t.residual }), ...(t.residualOut && { residualOut: t.residualOut }), quantized: fp8.target(t) }),
          expected: () => ({ ...fp8.expected({ ...nothing, error: nothing.values }), ...(at.residual === 'inout' ? { residualOut: nothing } : {}) }),
        }
      },
    }
  }
}

function* perf(): Generator<PerfCase> {
  for (const [N, D] of [[1, 2048], [1, 3072], [512, 2048]] as const) {
    yield {
      name: `bf16 residual N=${N} D=${D}`,
      bytes: 4 * N * D * 2 + 2 * D,
      flops: 5 * N * D,
      make(random) {
        const at = { x: 'bf16', weight: 'bf16', out: 'bf16', D, values: 'normal', placement: 'plain', residual: 'inout' } as const
        const { inputs, outputs } = arrange(random, at, N)
        return { inputs, outputs, call: (t) => void op({ x: t.x!, weight: t.weight!, ...optional(t) }), expected: () => ({}) }
      },
    }
  }
}

export const rmsNorm: OpContract = {
  op: 'rmsNorm',
  signature: 'x [N, D], weight [D], residual?, out, residualOut? f32|bf16, or out e4m3 with scaleInv and scale? f32; eps, zeroCenteredGamma, castBeforeWeight',
  tolerance: 'log2(D) / 2 + 10 units of 2^-24 relative, and the rounding to out',
  bytes: ({ N = 1, D = 1 }) => (2 * N * D + D) * itemSize('f32'),
  flops: ({ N = 1, D = 1 }) => 4 * N * D,
  *cases() {
    yield* cases()
    yield* busy()
    yield* quantized()
    yield* empty()
  },
  perf,
  *invariance(): Generator<InvarianceCase> {
    for (const D of [7, 64, 2048, 5000]) {
      yield rowInvariance(`D=${D}`, D, D, (x, fixed, out) => void op({ x, weight: fixed, out }))
    }
  },
}
