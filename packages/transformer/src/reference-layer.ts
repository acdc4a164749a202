import { activation, add, gatedActivation, linear, rope, scope, Tensor } from '@octet-llm/kernels'

import type { LayerContext } from './context.js'
import { isGated } from './layer-norm-mlp.js'
import type { Linear } from './linear.js'
import type { StateEntry } from './module.js'
import type { QkNorm } from './qk-norm.js'
import type { DecoderLayer, TransformerLayer } from './transformer-layer.js'
import type { Weight } from './weight.js'

/**
 * The same layer one simple op at a time, in Hugging Face's order and with a rounding after every step: separate q, k, v,
 * gate and up projections, norm, RoPE, cache append and residual sums. It computes on the fused layer's own weights and
 * is the oracle that the fused layer is tested against.
 */
export class ReferenceLayer implements DecoderLayer {
  readonly layer: TransformerLayer

  constructor(layer: TransformerLayer) {
    this.layer = layer
  }

  run(x: Tensor, ctx: LayerContext, out?: Tensor): Tensor {
    return scope(() => {
      const { postAttentionNorm, postMlpNorm } = this.layer
      const attended = this.#attention(x, ctx)
      const mid = add({ a: x, b: postAttentionNorm?.forward(attended) ?? attended })
      const fed = this.#mlp(mid)
      return add({ a: mid, b: postMlpNorm?.forward(fed) ?? fed, out })
    })
  }

  weights(): [string, Weight][] {
    return this.layer.weights()
  }

  stateEntries(): StateEntry[] {
    return this.layer.stateEntries()
  }

  dispose(): void {
    this.layer.dispose()
  }

  #attention(x: Tensor, ctx: LayerContext): Tensor {
    const { layernormQkv, qkv, core, proj, qNorm, kNorm } = this.layer.selfAttention
    const n = layernormQkv!.norm.forward(x)
    const q = this.#position(project(qkv, n, 'query'), core.heads, qNorm, ctx)
    const k = this.#position(project(qkv, n, 'key'), core.kvHeads, kNorm, ctx)
    const v = project(qkv, n, 'value')
    if (ctx.inferenceParams === undefined) return proj.run(core.attend(q, k, v, ctx))
    core.append(k, v, ctx.inferenceParams)
    return proj.run(core.attendCached(q, ctx))
  }

  #position(x: Tensor, heads: number, norm: QkNorm | undefined, ctx: LayerContext): Tensor {
    const { qkNormBeforeRope, interleavedRope: interleaved, core } = this.layer.selfAttention
    if (qkNormBeforeRope) norm?.apply(x)
    const y = ctx.rope === undefined ? x : rope({ x, ...ctx.rope, heads, headDim: core.headDim, interleaved })
    if (!qkNormBeforeRope) norm?.apply(y)
    return y
  }

  #mlp(x: Tensor): Tensor {
    const { norm, fc1, fc2, activation: kind } = this.layer.layernormMlp
    const n = norm.forward(x)
    if (!isGated(kind)) return fc2.run(activation({ x: fc1.run(n), kind }))
    const wide = Tensor.empty([n.shape[0]!, fc1.outFeatures], { dtype: n.dtype, device: n.device })
    const half = fc2.inFeatures
    project(fc1, n, 'gate', wide.columns(0, half))
    project(fc1, n, 'up', wide.columns(half, 2 * half))
    return fc2.run(gatedActivation({ x: wide, kind }))
  }
}

function project(part: Linear, x: Tensor, segment: string, out?: Tensor): Tensor {
  return linear({ x, weight: part.weight.view(segment), bias: part.bias?.view(segment), out })
}
