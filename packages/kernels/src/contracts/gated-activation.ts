import { itemSize } from '@octet-llm/core'
import type { ActivationKind } from '../ops/activation.js'
import { gatedActivation as op, type GatedActivationKind } from '../ops/gated-activation.js'
import { SPREADS, activated } from './activation-math.js'
import { PLACEMENTS, type ContractCase, type InvarianceCase, type OpContract, type PerfCase } from './contract.js'
import { ACTIVATIONS, U, VALUES, WIDTHS, host, product, rms, sampled, values, type HostTensor } from './host.js'
import { EMPTY, ROW_GRANULARITIES, quantizedCase } from './quantized-cases.js'
import { rowInvariance } from './row-invariance.js'

const GATED: Readonly<Record<GatedActivationKind, ActivationKind>> = {
  geglu: 'gelu',
  swiglu: 'silu',
  reglu: 'relu',
  qgeglu: 'qgelu',
  sreglu: 'srelu',
  glu: 'sigmoid',
  gegluErf: 'geluErf',
}

/** Without infinities in `up` where the activation underflows: 0 * infinity is NaN, and where that begins is rounding. */
function calm(x: HostTensor, width: number): HostTensor {
  return host(x.dtype, x.shape, (i) => {
    const up = i % (2 * width) >= width
    return up && !Number.isFinite(x.values[i]!) && x.values[i - width]! < -4 ? 1 : x.values[i]!
  })
}

/** act(gate) * up of every row, the activation's error times |up|, and the product's. */
function reference(x: HostTensor, kind: GatedActivationKind, width: number): { values: Float64Array; error: Float64Array } {
  const rows = x.shape[0]!
  const out = new Float64Array(rows * width)
  const error = new Float64Array(rows * width)
  for (let i = 0; i < out.length; i++) {
    const row = Math.floor(i / width)
    const act = activated(GATED[kind], x.values[row * width + i]!)
    const up = x.values[row * width + width + i]!
    out[i] = act.value * up
    const bound = act.error * Math.abs(up) + Math.abs(out[i]!) * U + 2 ** -149
    error[i] = Number.isFinite(bound) ? bound : 0
  }
  return { values: out, error }
}

/** The result in FP8: rounded to x's dtype, then quantized. */
function* quantized(): Generator<ContractCase> {
  let index = 0
  const kinds = Object.keys(GATED) as GatedActivationKind[]
  const axes = { kind: kinds, x: ACTIVATIONS, I: [1, 7, 16, 128, 129, 300, 1000, 4096, 14336, 24576, 40000], placement: PLACEMENTS, granularity: ROW_GRANULARITIES, powerOf2: [false, true] }
  for (const { name, at } of product(axes)) {
    yield {
      name: `quantized ${name}`,
      quick: sampled(index++, at.I > 1000 ? 120 : 40),
      make(random) {
        const rows = at.I > 5000 ? 2 : 3
        const x = values(random, at.x, [rows, 2 * at.I])
        const fp8 = quantizedCase(random, at, rows, at.I)
        return {
          inputs: { x: { host: x, placement: at.placement }, ...fp8.inputs },
          outputs: fp8.outputs,
          call: (t) => void op({ x: t['x']!, kind: at.kind, quantized: fp8.target(t) }),
          expected: () => fp8.expected(reference(x, at.kind, at.I)),
        }
      },
    }
  }
  // More rows than the kernels for a decode step take.
  const many = { x: 'bf16', placement: 'plain', granularity: 'row', powerOf2: false } as const
  yield {
    name: 'quantized kind=swiglu x=bf16 N=200 I=256',
    quick: true,
    make(random) {
      const x = values(random, 'bf16', [200, 512])
      const fp8 = quantizedCase(random, many, 200, 256)
      return { inputs: { x: { host: x } }, outputs: fp8.outputs, call: (t) => void op({ x: t['x']!, kind: 'swiglu', quantized: fp8.target(t) }), expected: () => fp8.expected(reference(x, 'swiglu', 256)) }
    },
  }
}

/** No elements to quantize: the scales are written all the same. */
function* empty(): Generator<ContractCase> {
  for (const { name, at } of product({ x: ACTIVATIONS, granularity: ROW_GRANULARITIES, epsilon: [0, 5], shape: EMPTY.map(([n, width]) => `${n}x${width}`) })) {
    const [rows, width] = at.shape.split('x').map(Number) as [number, number]
    yield {
      name: `quantized ${name}`,
      quick: true,
      make(random) {
        const x = values(random, at.x, [rows, 2 * width])
        const fp8 = quantizedCase(random, { ...at, powerOf2: false, placement: 'plain' }, rows, width)
        return {
          inputs: { x: { host: x }, ...fp8.inputs },
          outputs: fp8.outputs,
          call: (t) => void op({ x: t['x']!, kind: 'swiglu', quantized: fp8.target(t) }),
          expected: () => fp8.expected({ values: x.values, error: x.values }),
        }
      },
    }
  }
}

function* cases(): Generator<ContractCase> {
  let index = 0
  const kinds = Object.keys(GATED) as GatedActivationKind[]
  for (const { name, at } of product({ kind: kinds, x: ACTIVATIONS, out: ACTIVATIONS, I: [...WIDTHS, 4099], values: VALUES, spread: SPREADS, placement: PLACEMENTS })) {
    yield {
      name,
      quick: sampled(index++, at.I > 1000 ? 900 : 150),
      make(random) {
        const x = calm(values(random, at.x, [2, 2 * at.I], at.values, at.spread), at.I)
        return {
          inputs: { x: { host: x, placement: at.placement } },
          outputs: { out: { dtype: at.out, shape: [2, at.I], placement: at.placement } },
          call: ({ x, out }) => void op({ x: x!, kind: at.kind, out: out! }),
          expected: () => ({ out: { ...reference(x, at.kind, at.I), ...rms(at.values, 60) } }),
        }
      },
    }
  }
}

function* perf(): Generator<PerfCase> {
  for (const [N, I] of [[1, 8192], [512, 8192]] as const) {
    for (const kind of ['swiglu', 'geglu'] as const) {
      yield {
        name: `bf16 ${kind} N=${N} I=${I}`,
        bytes: 3 * N * I * 2,
        flops: 25 * N * I,
        make: (random) => ({
          inputs: { x: { host: values(random, 'bf16', [N, 2 * I]) } },
          outputs: { out: { dtype: 'bf16', shape: [N, I] } },
          call: ({ x, out }) => void op({ x: x!, kind, out: out! }),
          expected: () => ({}),
        }),
      }
    }
  }
}

export const gatedActivation: OpContract = {
  op: 'gatedActivation',
  signature: 'x [..., 2I], out [..., I] f32|bf16, or e4m3 with scaleInv and scale? f32; kind',
  tolerance: "the activation's, times |up|, and one product",
  bytes: ({ N = 1, I = 1 }) => 3 * N * I * itemSize('f32'),
  flops: ({ N = 1, I = 1 }) => 26 * N * I,
  *cases() {
    yield* cases()
    yield* quantized()
    yield* empty()
  },
  perf,
  *invariance(): Generator<InvarianceCase> {
    for (const I of [9, 4099]) yield rowInvariance(`I=${I}`, 2 * I, I, (x, _fixed, out) => void op({ x, kind: 'geglu', out }))
  },
}
