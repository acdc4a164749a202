/**
 * A decoder layer in float64, written from the definitions with plain loops and no code of the package: what every
 * float32 and bf16 result is measured against. Weights come under TransformerEngine's unfused names.
 */
export interface OracleOptions {
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly normalization: 'RMSNorm' | 'LayerNorm'
  readonly eps: number
  readonly zeroCentered?: boolean
  readonly activation: string
  readonly scale?: number
  readonly softcap?: number
  /** Whether query i of a sequence of n sees key j. Default: causal. */
  readonly visible?: (i: number, j: number, n: number) => boolean
  /** float32 frequencies, widened; angles are rounded to float32 as every implementation's tables are. */
  readonly rope?: { readonly invFreq: Float32Array; readonly scaling?: number; readonly interleaved?: boolean }
  readonly qkNorm?: { readonly type: 'RMSNorm' | 'LayerNorm' | 'L2Normalization'; readonly eps: number; readonly beforeRope: boolean }
  readonly postNorms?: boolean
}

export type OracleWeights = ReadonlyMap<string, ArrayLike<number>>

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI)
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
const gelu = (x: number) => 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x ** 3)))
const silu = (x: number) => x * sigmoid(x)
const relu = (x: number) => Math.max(0, x)
const qgelu = (x: number) => x * sigmoid(1.702 * x)
const srelu = (x: number) => relu(x) ** 2
const PLAIN: Record<string, (x: number) => number> = { gelu, silu, relu, qgelu, srelu }
const GATED: Record<string, (x: number) => number> = { geglu: gelu, swiglu: silu, reglu: relu, qgeglu: qgelu, sreglu: srelu, glu: sigmoid }

/** x · weightᵀ + bias: x [t, k], weight [n, k]. */
export function matmul(x: ArrayLike<number>, weight: ArrayLike<number>, k: number, bias?: ArrayLike<number>): Float64Array {
  const t = x.length / k
  const n = weight.length / k
  const y = new Float64Array(t * n)
  for (let r = 0; r < t; r++) {
    for (let c = 0; c < n; c++) {
      let sum = bias?.[c] ?? 0
      for (let i = 0; i < k; i++) sum += x[r * k + i]! * weight[c * k + i]!
      y[r * n + c] = sum
    }
  }
  return y
}

/** Normalises rows of length `weight.length`. */
export function norm(x: ArrayLike<number>, o: Pick<OracleOptions, 'normalization' | 'eps' | 'zeroCentered'>, weight: ArrayLike<number>, bias?: ArrayLike<number>): Float64Array {
  const d = weight.length
  const y = new Float64Array(x.length)
  for (let r = 0; r < x.length; r += d) {
    let mean = 0
    if (o.normalization === 'LayerNorm') for (let i = 0; i < d; i++) mean += x[r + i]! / d
    let variance = 0
    for (let i = 0; i < d; i++) variance += (x[r + i]! - mean) ** 2 / d
    const inv = 1 / Math.sqrt(variance + o.eps)
    for (let i = 0; i < d; i++) y[r + i] = (x[r + i]! - mean) * inv * (weight[i]! + (o.zeroCentered === true ? 1 : 0)) + (bias?.[i] ?? 0)
  }
  return y
}

function rotate(x: Float64Array, heads: number, d: number, rope: NonNullable<OracleOptions['rope']>): void {
  const tokens = x.length / (heads * d)
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      const at = (t * heads + h) * d
      for (let i = 0; i < d / 2; i++) {
        const angle = Math.fround(t * rope.invFreq[i]!)
        const c = Math.cos(angle) * (rope.scaling ?? 1)
        const s = Math.sin(angle) * (rope.scaling ?? 1)
        const [p, q] = rope.interleaved === true ? [at + 2 * i, at + 2 * i + 1] : [at + i, at + i + d / 2]
        const [a, b] = [x[p]!, x[q]!]
        x[p] = a * c - b * s
        x[q] = b * c + a * s
      }
    }
  }
}

function qkNorm(x: Float64Array, name: string, o: OracleOptions, w: OracleWeights): Float64Array {
  const { type, eps } = o.qkNorm!
  if (type !== 'L2Normalization') return norm(x, { normalization: type, eps, zeroCentered: o.zeroCentered }, w.get(`self_attention.${name}.weight`)!, w.get(`self_attention.${name}.bias`))
  const y = new Float64Array(x.length)
  for (let r = 0; r < x.length; r += o.headDim) {
    let sum = 0
    for (let i = 0; i < o.headDim; i++) sum += x[r + i]! ** 2
    for (let i = 0; i < o.headDim; i++) y[r + i] = x[r + i]! / Math.sqrt(sum + eps)
  }
  return y
}

function position(x: Float64Array, heads: number, name: string, o: OracleOptions, w: OracleWeights): Float64Array {
  const before = o.qkNorm?.beforeRope === true ? qkNorm(x, name, o, w) : x
  if (o.rope !== undefined) rotate(before, heads, o.headDim, o.rope)
  return o.qkNorm !== undefined && !o.qkNorm.beforeRope ? qkNorm(before, name, o, w) : before
}

/** softmax(q · kᵀ) · v over one sequence. A query that sees nothing gives zeros. */
export function attend(q: Float64Array, k: Float64Array, v: Float64Array, o: Omit<OracleOptions, 'hidden' | 'normalization' | 'eps' | 'activation'>): Float64Array {
  const { heads, kvHeads, headDim: d } = o
  const n = q.length / (heads * d)
  const scale = o.scale ?? 1 / Math.sqrt(d)
  const visible = o.visible ?? ((i: number, j: number) => j <= i)
  const y = new Float64Array(q.length)
  for (let i = 0; i < n; i++) {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / (heads / kvHeads))
      const qAt = (i * heads + h) * d
      const scores: number[] = []
      for (let j = 0; j < n; j++) {
        let s = 0
        for (let c = 0; c < d; c++) s += q[qAt + c]! * k[(j * kvHeads + g) * d + c]!
        s *= scale
        if (o.softcap) s = Math.tanh(s / o.softcap) * o.softcap
        scores.push(visible(i, j, n) ? s : -Infinity)
      }
      const max = Math.max(...scores)
      if (max === -Infinity) continue
      const exps = scores.map((s) => Math.exp(s - max))
      const total = exps.reduce((a, b) => a + b, 0)
      for (let j = 0; j < n; j++) for (let c = 0; c < d; c++) y[qAt + c]! += (exps[j]! / total) * v[(j * kvHeads + g) * d + c]!
    }
  }
  return y
}

/** One sequence x [n, hidden] through one layer. */
export function oracleLayer(x: ArrayLike<number>, o: OracleOptions, w: OracleWeights): Float64Array {
  const sa = (name: string) => w.get(`self_attention.${name}`)
  const ln = (name: string) => sa(`layernorm_qkv.${name}`)
  const mlp = (name: string) => w.get(`layernorm_mlp.${name}`)
  const n1 = norm(x, o, ln('layer_norm_weight')!, ln('layer_norm_bias'))
  const q = position(matmul(n1, ln('query_weight')!, o.hidden, ln('query_bias')), o.heads, 'q_norm', o, w)
  const k = position(matmul(n1, ln('key_weight')!, o.hidden, ln('key_bias')), o.kvHeads, 'k_norm', o, w)
  const v = matmul(n1, ln('value_weight')!, o.hidden, ln('value_bias'))
  const attended = matmul(attend(q, k, v, o), sa('proj.weight')!, o.heads * o.headDim, sa('proj.bias'))
  const post = (y: Float64Array, name: string) => (o.postNorms === true ? norm(y, o, w.get(`${name}.weight`)!) : y)
  const a = post(attended, 'post_attention_norm')
  const mid = Float64Array.from(a, (value, i) => value + x[i]!)
  const wide = matmul(norm(mid, o, mlp('layer_norm_weight')!, mlp('layer_norm_bias')), mlp('fc1_weight')!, o.hidden, mlp('fc1_bias'))
  const act = activate(wide, o.activation, mid.length / o.hidden)
  const fed = post(matmul(act, mlp('fc2_weight')!, act.length / (mid.length / o.hidden), mlp('fc2_bias')), 'post_mlp_norm')
  return fed.map((value, i) => value + mid[i]!)
}

export function activate(wide: Float64Array, kind: string, rows: number): Float64Array {
  const plain = PLAIN[kind]
  if (plain !== undefined) return wide.map(plain)
  const width = wide.length / rows
  const half = width / 2
  return Float64Array.from({ length: rows * half }, (_, t) => {
    const at = Math.floor(t / half) * width + (t % half)
    return GATED[kind]!(wide[at]!) * wide[at + half]!
  })
}

/** Largest and root-mean-square difference. */
export function difference(a: ArrayLike<number>, b: ArrayLike<number>): { max: number; rms: number } {
  let max = 0
  let sum = 0
  for (let i = 0; i < b.length; i++) {
    const d = Math.abs(a[i]! - b[i]!)
    // NaN must not hide behind Math.max.
    max = d > max || Number.isNaN(d) ? d : max
    sum += d * d
  }
  return { max: a.length === b.length ? max : NaN, rms: Math.sqrt(sum / Math.max(1, b.length)) }
}
