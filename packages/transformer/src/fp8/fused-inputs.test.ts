/** Norms and gated activations that leave their result in FP8: the numbers of the separate ops, and who still takes those. */
import { Float8BlockScaling, Float8CurrentScaling } from '@octet-llm/fp8-recipe'
import { gatedActivation, openDevice, Tensor, type Device } from '@octet-llm/kernels'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { LayerNormLinear } from '../layer-norm-linear.js'
import { LayerNormMLP } from '../layer-norm-mlp.js'
import { Linear } from '../linear.js'
import { Workspace } from '../workspace.js'
import { AutocastContext } from './autocast.js'
import { resolveFp8, type Fp8Option } from './inference.js'

let device: Device
beforeAll(async () => void (device = await openDevice('cpu', { threads: 2 })))
afterAll(() => device.dispose())

const HIDDEN = 192
const FFN = 320

function activations(rows: number, cols: number, dtype: 'f32' | 'bf16'): Tensor {
  return Tensor.from(Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i * 12.9898) * 2 ** ((i % 5) - 2)), { shape: [rows, cols], dtype, device })
}
const bytes = async (t: Tensor) => Buffer.from(await t.toBytes())

const RULES: readonly (readonly [name: string, option: Fp8Option, granularity: string, scale: number | undefined])[] = [
  ['by token', true, 'row', undefined],
  ['1x128', { recipe: new Float8BlockScaling() }, 'block1x128', undefined],
  ['a static scale', { recipe: new Float8CurrentScaling() }, 'tensor', 0.03],
]

describe.each(RULES)('activations %s', (_, option, granularity, scale) => {
  const fp8 = () => resolveFp8(option, scale !== undefined)

  it.each(['f32', 'bf16'] as const)('in %s: a fused norm and projection equal the two by themselves', async (dtype) => {
    const fused = new LayerNormLinear({ device, dtype, inFeatures: HIDDEN, outFeatures: 96, normalization: 'RMSNorm', zeroCenteredGamma: true, fp8: fp8(), initStd: 0.3 })
    fused.linear.setInputScale(scale)
    const x = activations(5, HIDDEN, dtype)
    const workspace = new Workspace(device)
    expect(fused.linear.inputTarget(x, workspace, undefined)).toMatchObject({ granularity })
    expect(await bytes(fused.forward(x))).toEqual(await bytes(fused.linear.forward(fused.norm.forward(x))))
    workspace.dispose()
    fused.dispose()
  })

  it.each(['swiglu', 'geglu', 'gelu'] as const)('an MLP with %s equals its parts', async (activation) => {
    const mlp = new LayerNormMLP({ device, dtype: 'bf16', hiddenSize: HIDDEN, ffnHiddenSize: FFN, normalization: 'RMSNorm', activation, fp8: fp8(), initStd: 0.3 })
    for (const part of [mlp.fc1, mlp.fc2]) part.setInputScale(scale)
    const x = activations(3, HIDDEN, 'bf16')
    const wide = mlp.fc1.forward(mlp.norm.forward(x))
    if (activation !== 'gelu') expect(await bytes(mlp.forward(x))).toEqual(await bytes(mlp.fc2.forward(gatedActivation({ x: wide, kind: activation }))))
    // Nothing but a gated activation and RMSNorm makes FP8 itself: the buffers of the others would be here.
    const workspace = new Workspace(device)
    mlp.run(x, workspace)
    const unfused = activation === 'gelu' ? 3 * FFN * 2 : 0
    const codes = 3 * (HIDDEN + FFN)
    const scales = granularity === 'tensor' ? 2 : granularity === 'row' ? 6 : 3 * (Math.ceil(HIDDEN / 128) + Math.ceil(FFN / 128))
    expect(workspace.byteLength).toBe(3 * mlp.fc1.outFeatures * 2 + codes + 4 * scales + unfused)
    workspace.dispose()
    mlp.dispose()
  })
})

describe('the activations themselves are made', () => {
  const linear = (option: Fp8Option = true) => new Linear({ device, dtype: 'bf16', inFeatures: HIDDEN, outFeatures: 32, fp8: resolveFp8(option, false) })
  const like = { shape: [2, HIDDEN] }

  it('for weights that are not in FP8', () => {
    expect(linear(false).inputTarget(like, new Workspace(device), undefined)).toBeUndefined()
  })

  it('while somebody looks at them, in an autocast, and where FP8 is off', () => {
    const part = linear()
    const workspace = new Workspace(device)
    const observer = { input: () => undefined, keysAndValues: () => undefined }
    expect(part.inputTarget(like, workspace, { enabled: true, calibrating: false })).toBeDefined()
    expect(part.inputTarget(like, workspace, { enabled: true, calibrating: true, observer })).toBeUndefined()
    expect(part.inputTarget(like, workspace, { enabled: false, calibrating: false })).toBeUndefined()
    expect(part.inputTarget(like, workspace, new AutocastContext({ enabled: true, recipe: new Float8CurrentScaling() }))).toBeUndefined()
  })

  it('beside a low-rank update, which multiplies them too', () => {
    const part = linear()
    part.addLowRank({ byteLength: 0, add: () => undefined, dispose: () => undefined } as unknown as Parameters<typeof part.addLowRank>[0])
    expect(part.inputTarget(like, new Workspace(device), undefined)).toBeUndefined()
  })

  it('where a scale needs the whole tensor', () => {
    const part = linear()
    part.setInputRule({ granularity: 'tensor' })
    expect(part.inputTarget(like, new Workspace(device), undefined)).toBeUndefined()
  })
})
