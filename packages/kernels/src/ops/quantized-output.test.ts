/** Ops that leave their result in FP8 against the pair of ops they stand for: codes and scales equal to the bit. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDevice, type Device } from '../device.js'
import { Tensor } from '../tensor.js'
import { gatedActivation, quantize, rmsNorm, scaleShape, type QuantizedOutput } from './index.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu', { threads: 2 })))
afterAll(() => device.dispose())

const GRANULARITIES = ['tensor', 'row', 'block1x128'] as const
const SPECIAL = [NaN, Infinity, -Infinity, 0, -0, 3e38, 1e-40]

/** [rows, cols] of plain numbers; the last row all zero, and special ones in the second where asked for. */
function matrix(rows: number, cols: number, dtype: 'f32' | 'bf16', special: boolean): Tensor {
  const values = Float32Array.from({ length: rows * cols }, (_, i) => (i >= (rows - 1) * cols ? 0 : Math.sin(i * 12.9898) * 2 ** ((i % 7) - 3)))
  if (special) SPECIAL.forEach((v, i) => (values[cols + ((i * 5) % cols)] = v))
  return Tensor.from(values, { shape: [rows, cols], dtype, device })
}

function target(rows: number, cols: number, granularity: (typeof GRANULARITIES)[number], powerOf2: boolean): QuantizedOutput {
  const shape = scaleShape(granularity, rows, cols)
  const scale = granularity === 'tensor' ? Tensor.from(Float32Array.of(37.5), { shape: [1], dtype: 'f32', device }) : undefined
  return { data: Tensor.zeros([rows, cols], { dtype: 'e4m3', device }), scaleInv: Tensor.zeros(shape, { dtype: 'f32', device }), granularity, scale, powerOf2, epsilon: 1e-6 }
}

async function same(fused: QuantizedOutput, plain: Tensor): Promise<void> {
  const { granularity, scale, powerOf2, epsilon } = fused
  const apart = quantize({ x: plain, granularity, scale, powerOf2, epsilon })
  expect(Buffer.compare(await fused.data.toBytes(), await apart.data.toBytes())).toBe(0)
  expect(Buffer.compare(await fused.scaleInv.toBytes(), await apart.scaleInv.toBytes())).toBe(0)
}

describe.each(['f32', 'bf16'] as const)('from %s', (dtype) => {
  describe.each(GRANULARITIES)('by %s', (granularity) => {
    it.each([[1, 1], [3, 7], [3, 128], [4, 129], [3, 300], [5, 4096]])('rmsNorm [%i, %i] is rmsNorm, then quantize', async (rows, cols) => {
      for (const special of cols > 100 ? [false, true] : [false]) {
        const x = matrix(rows, cols, dtype, special)
        const residual = matrix(rows, cols, dtype, false)
        const weight = matrix(1, cols, 'f32', false).view([cols])
        for (const form of [{}, { zeroCenteredGamma: true }, { castBeforeWeight: true, eps: 1e-5 }]) {
          const sums = [0, 1].map(() => Tensor.zeros([rows, cols], { dtype, device })) as [Tensor, Tensor]
          const fused = target(rows, cols, granularity, special)
          expect(rmsNorm({ x, weight, residual, residualOut: sums[0], quantized: fused, ...form })).toBe(fused.data)
          await same(fused, rmsNorm({ x, weight, residual, residualOut: sums[1], ...form }))
          expect(Buffer.compare(await sums[0].toBytes(), await sums[1].toBytes())).toBe(0)
        }
      }
    })

    it.each([[1, 1], [3, 7], [3, 128], [4, 300], [2, 5000]])('gatedActivation [%i, 2 * %i] is gatedActivation, then quantize', async (rows, width) => {
      const x = matrix(rows, 2 * width, dtype, width > 100)
      for (const kind of ['geglu', 'swiglu'] as const) {
        const fused = target(rows, width, granularity, false)
        expect(gatedActivation({ x, kind, quantized: fused })).toBe(fused.data)
        await same(fused, gatedActivation({ x, kind }))
      }
    })
  })
})

describe.each(GRANULARITIES)('a result without elements by %s has the scales that quantize gives it', (granularity) => {
  it.each([[0, 8], [3, 0], [0, 0]])('[%i, %i]', async (rows, cols) => {
    const empty = (width: number) => Tensor.zeros([rows, width], { dtype: 'bf16', device })
    const [norm, gated] = [target(rows, cols, granularity, false), target(rows, cols, granularity, true)]
    expect(rmsNorm({ x: empty(cols), weight: Tensor.zeros([cols], { dtype: 'f32', device }), quantized: norm })).toBe(norm.data)
    expect(gatedActivation({ x: empty(2 * cols), kind: 'glu', quantized: gated })).toBe(gated.data)
    await same(norm, empty(cols))
    await same(gated, empty(cols))
    if (granularity !== 'block1x128' && rows > 0) expect((await norm.scaleInv.toFloat32Array())[0]).toBeGreaterThan(0)
  })
})

describe('refuses', () => {
  const good = () => ({ x: matrix(2, 256, 'f32', false), kind: 'glu' as const })
  const of = (change: Partial<QuantizedOutput>): QuantizedOutput => ({ ...target(2, 128, 'row', false), ...change })
  it.each<[string, () => QuantizedOutput, string, string]>([
    ['a scale over several rows', () => of({ granularity: 'block128x128' }), 'INVALID_ARGUMENT', 'quantized.granularity'],
    ['a tensor scale that nobody gives', () => of({ granularity: 'tensor' }), 'INVALID_ARGUMENT', 'quantized.scale'],
    ['codes of another format', () => of({ data: Tensor.zeros([2, 128], { dtype: 'e5m2', device }) }), 'DTYPE_MISMATCH', 'quantized.data'],
    ['codes of another shape', () => of({ data: Tensor.zeros([2, 64], { dtype: 'e4m3', device }) }), 'SHAPE_MISMATCH', 'quantized.data'],
    ['scales of another shape', () => of({ scaleInv: Tensor.zeros([3], { dtype: 'f32', device }) }), 'SHAPE_MISMATCH', 'quantized.scaleInv'],
    ['a given scale of another shape', () => of({ scale: Tensor.zeros([3], { dtype: 'f32', device }) }), 'SHAPE_MISMATCH', 'quantized.scale'],
    ['an epsilon below zero', () => of({ epsilon: -1 }), 'INVALID_ARGUMENT', 'quantized.epsilon'],
  ])('%s', (_, quantized, code, argument) => {
    expect(() => gatedActivation({ ...good(), quantized: quantized() })).toThrow(expect.objectContaining({ code, argument }) as Error)
  })

  it('an out beside it', () => {
    const out = Tensor.zeros([2, 128], { dtype: 'f32', device })
    expect(() => gatedActivation({ ...good(), out, quantized: of({}) })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'out' }) as Error)
    const x = Tensor.zeros([2, 128], { dtype: 'f32', device })
    expect(() => rmsNorm({ x, weight: Tensor.zeros([128], { dtype: 'f32', device }), out, quantized: of({}) })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'out' }) as Error)
  })
})
