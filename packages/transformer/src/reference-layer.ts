import { activation, add, gatedActivation, rope, scope, Tensor } from '@octet-llm/kernels'

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
      const fed = this.#mlp(mid, ctx)
      return add({ a: mid, b: postMlpNorm?.forward(fed) ?? fed, out })
    })
  }

  weights(): [string, Weight][] {
    return this.layer.weights()
  }

  stateEntries(): StateEntry[] {
    return this.layer.stateEntries()
  }

  linears(): [string, Linear][] {
    return this.layer.linears()
  }

  dispose(): void {
    this.layer.dispose()
  }

  #attention(x: Tensor, ctx: LayerContext): Tensor {
    const { layernormQkv, qkv, core, proj, qNorm, kNorm } = this.layer.selfAttention
    const { fp8 } = ctx
    const n = layernormQkv!.norm.forward(x)
    const q = this.#position(qkv.runSegment(n, 'query', { fp8 }), core.heads, qNorm, ctx)
    const k = this.#position(qkv.runSegment(n, 'key', { fp8 }), core.kvHeads, kNorm, ctx)
    const v = qkv.runSegment(n, 'value', { fp8 })
    fp8?.observer?.keysAndValues(core, k, v)
    if (ctx.inferenceParams === undefined) return proj.run(core.attend(q, k, v, ctx), { fp8 })
    core.append(k, v, ctx.inferenceParams)
    return proj.run(core.attendCached(q, ctx), { fp8 })
  }

  #position(x: Tensor, heads: number, norm: QkNorm | undefined, ctx: LayerContext): Tensor {
    const { qkNormBeforeRope, interleavedRope: interleaved, core } = this.layer.selfAttention
    if (qkNormBeforeRope) norm?.apply(x)
    const y = ctx.rope === undefined ? x : rope({ x, ...ctx.rope, heads, headDim: core.headDim, interleaved })
    if (!qkNormBeforeRope) norm?.apply(y)
    return y
  }

  #mlp(x: Tensor, { fp8 }: LayerContext): Tensor {
    const { norm, fc1, fc2, activation: kind } = this.layer.layernormMlp
    const n = norm.forward(x)
    if (!isGated(kind)) return fc2.run(activation({ x: fc1.run(n, { fp8 }), kind }), { fp8 })
    const wide = Tensor.empty([n.shape[0]!, fc1.outFeatures], { dtype: n.dtype, device: n.device })
    const half = fc2.inFeatures
    fc1.runSegment(n, 'gate', { out: wide.columns(0, half), fp8 })
    fc1.runSegment(n, 'up', { out: wide.columns(half, 2 * half), fp8 })
    return fc2.run(gatedActivation({ x: wide, kind }), { fp8 })
  }
}
