/**
 * A Llama of 16 words in float64, whose weights are a published formula: its greedy and beam sequences are known from
 * transformers, so that generation is held to them without a checkpoint.
 */
import type { LogitsOf } from './fake-model.test.helper.js'

const V = 16
const HIDDEN = 8
const INTER = 12
const HEADS = 2
const D = 4
const LAYERS = 2

type Matrix = (x: readonly number[]) => number[]

/** Parameters by name: 0.2·sin(0.37·j + k), k the index in name order, j the flat index; norms add 1. */
function weights(): Map<string, Float32Array> {
  const shapes: Record<string, number> = { 'model.embed_tokens.weight': V * HIDDEN, 'lm_head.weight': V * HIDDEN, 'model.norm.weight': HIDDEN }
  for (let i = 0; i < LAYERS; i++) {
    const layer = `model.layers.${i}.`
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) shapes[`${layer}${norm}.weight`] = HIDDEN
    for (const proj of ['q_proj', 'o_proj']) shapes[`${layer}self_attn.${proj}.weight`] = HIDDEN * HEADS * D
    for (const proj of ['k_proj', 'v_proj']) shapes[`${layer}self_attn.${proj}.weight`] = HIDDEN * D
    for (const proj of ['gate_proj', 'up_proj', 'down_proj']) shapes[`${layer}mlp.${proj}.weight`] = HIDDEN * INTER
  }
  const names = Object.keys(shapes).sort()
  return new Map(names.map((name, k) => {
    const plus = name.includes('norm') ? 1 : 0
    return [name, Float32Array.from({ length: shapes[name]! }, (_, j) => plus + 0.2 * Math.sin(0.37 * j + k))]
  }))
}

const W = weights()
const w = (name: string): Float32Array => W.get(`${name}.weight`)!

const linear = (name: string, inputs: number): Matrix => {
  const weight = w(name)
  return (x) => Array.from({ length: weight.length / inputs }, (_, n) => x.reduce((sum, v, k) => sum + v * weight[n * inputs + k]!, 0))
}

function rmsNorm(x: readonly number[], name: string): number[] {
  const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + 1e-6)
  return x.map((v, i) => v * scale * w(name)[i]!)
}

/** Half-split rotation of each head at a position, theta 1e4. */
function rope(x: readonly number[], position: number): number[] {
  return x.map((v, i) => {
    const d = i % D
    const angle = position / 10000 ** ((2 * (d % (D / 2))) / D)
    const partner = d < D / 2 ? -x[i + D / 2]! : x[i - D / 2]!
    return v * Math.cos(angle) + partner * Math.sin(angle)
  })
}

function attention(states: readonly (readonly number[])[], layer: string): number[][] {
  const q = states.map((x, t) => rope(linear(`${layer}.q_proj`, HIDDEN)(x), t))
  const k = states.map((x, t) => rope(linear(`${layer}.k_proj`, HIDDEN)(x), t))
  const v = states.map(linear(`${layer}.v_proj`, HIDDEN))
  return states.map((_, t) => {
    const out: number[] = []
    for (let h = 0; h < HEADS; h++) {
      const scores = k.slice(0, t + 1).map((key) => key.reduce((sum, x, d) => sum + x * q[t]![h * D + d]!, 0) / Math.sqrt(D))
      const max = Math.max(...scores)
      const exps = scores.map((s) => Math.exp(s - max))
      const total = exps.reduce((a, b) => a + b, 0)
      for (let d = 0; d < D; d++) out.push(exps.reduce((sum, e, s) => sum + (e / total) * v[s]![d]!, 0))
    }
    return linear(`${layer}.o_proj`, HEADS * D)(out)
  })
}

function mlp(x: readonly number[], layer: string): number[] {
  const gate = linear(`${layer}.gate_proj`, HIDDEN)(x)
  const up = linear(`${layer}.up_proj`, HIDDEN)(x)
  return linear(`${layer}.down_proj`, INTER)(gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!))
}

/** Logits of the last position, by a full forward without a cache. */
export const tinyLlama: LogitsOf = (ids) => {
  let h = ids.map((id) => Array.from(w('model.embed_tokens').subarray(id * HIDDEN, (id + 1) * HIDDEN)))
  const add = (a: number[][], b: number[][]): number[][] => a.map((row, t) => row.map((v, i) => v + b[t]![i]!))
  for (let i = 0; i < LAYERS; i++) {
    const layer = `model.layers.${i}`
    h = add(h, attention(h.map((x) => rmsNorm(x, `${layer}.input_layernorm`)), `${layer}.self_attn`))
    h = add(h, h.map((x) => mlp(rmsNorm(x, `${layer}.post_attention_layernorm`), `${layer}.mlp`)))
  }
  return Float32Array.from(linear('lm_head', HIDDEN)(rmsNorm(h.at(-1)!, 'model.norm')))
}
