import { roundBf16 } from '@octet-llm/core'
import { Tensor, type Device } from '@octet-llm/kernels'

import type { LayerContext } from '../context.js'
import type { RotaryPositionEmbedding } from '../rotary-position-embedding.js'
import { exportState } from '../state.js'
import type { TransformerLayer, TransformerLayerOptions } from '../transformer-layer.js'
import { Workspace } from '../workspace.js'
import type { OracleOptions } from './oracle.test.util.js'

/** Deterministic values in [-1, 1) without a pattern that a transposition or shift would keep. */
export function noise(length: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 12345) >>> 0
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
}

export function noiseBf16(length: number, seed: number): Float32Array {
  return noise(length, seed).map(roundBf16)
}

/** Gives every parameter values that no default hides: gammas off 1, biases off 0. */
export function perturb(layer: TransformerLayer, seed = 7): void {
  for (const [i, [path, weight]] of layer.weights().entries()) {
    const isVector = weight.shape.length === 1
    if (!isVector) continue
    const gamma = path.endsWith('norm_weight') || path.endsWith('norm.weight')
    const base = gamma && layer.options.zeroCenteredGamma !== true ? 1 : 0
    weight.tensor.write(noise(weight.size, seed + i).map((x) => roundBf16(base + 0.3 * x)))
  }
}

/** The layer's parameters as plain numbers under TransformerEngine's names. */
export async function plainWeights(layer: TransformerLayer): Promise<Map<string, Float32Array>> {
  const result = new Map<string, Float32Array>()
  for (const [name, entry] of await exportState(layer)) {
    const tensor = Tensor.fromBytes(entry.data, { shape: entry.shape, dtype: entry.dtype as 'f32', device: layer.options.device })
    result.set(name, await tensor.toFloat32Array())
    tensor.dispose()
  }
  return result
}

/** The oracle's view of a layer's options. */
export function oracleOptions(o: TransformerLayerOptions, rope?: RotaryPositionEmbedding): OracleOptions {
  const [left, right] = o.windowSize ?? [-1, -1]
  const causal = (o.selfAttnMaskType ?? 'causal').includes('causal')
  return {
    hidden: o.hiddenSize,
    heads: o.numAttentionHeads,
    kvHeads: o.numGqaGroups ?? o.numAttentionHeads,
    headDim: o.kvChannels ?? o.hiddenSize / o.numAttentionHeads,
    normalization: o.normalization ?? 'LayerNorm',
    eps: o.layernormEpsilon ?? 1e-5,
    zeroCentered: o.zeroCenteredGamma,
    activation: o.activation ?? 'gelu',
    scale: o.softmaxScale,
    softcap: o.attnLogitSoftcapping,
    visible: (i, j) => (!causal || j <= i) && (left < 0 || j >= i - left) && (right < 0 || j <= i + right),
    ...(rope === undefined ? {} : { rope: { invFreq: rope.invFreq, interleaved: o.rotaryPosInterleaved } }),
    ...(o.qkNormType === undefined ? {} : { qkNorm: { type: o.qkNormType, eps: o.qkNormEps ?? 1e-6, beforeRope: o.qkNormBeforeRope ?? false } }),
    postNorms: o.postNorms,
  }
}

/** A context for `run` over one sequence of n packed tokens; the caller disposes what `made` lists. */
export function denseContext(device: Device, n: number, rope?: RotaryPositionEmbedding): LayerContext & { readonly dispose: () => void } {
  const i32 = (data: number[]) => Tensor.from(Int32Array.from(data), { shape: [data.length], dtype: 'i32', device })
  const starts = i32([0])
  const lens = i32([n])
  const positions = i32(Array.from({ length: n }, (_, i) => i))
  const workspace = new Workspace(device)
  return {
    workspace,
    ranges: { starts, lens },
    ...(rope === undefined ? {} : { rope: rope.forTokens(positions, [{ begin: 0, count: n }]) }),
    dispose: () => {
      for (const t of [starts, lens, positions]) t.dispose()
      workspace.dispose()
    },
  }
}
