/** How far two runs of a model are apart. */

export function equalBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.compare(bytes(a), bytes(b)) === 0
}

function bytes(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}

/** Largest |got - want|, NaN where one has it; lengths that differ are infinitely far apart. */
export function distance(want: Float32Array, got: Float32Array): number {
  if (want.length !== got.length) return Infinity
  let most = 0
  for (let i = 0; i < want.length; i++) {
    const apart = Math.abs(got[i]! - want[i]!)
    if (!(apart <= most)) most = apart
  }
  return most
}

/** Mean KL divergence, in nats a token, of the distributions that `got` gives from those of `want`; rows of `vocab` logits. */
export function divergence(want: Float32Array, got: Float32Array, vocab: number): number {
  if (want.length !== got.length) return Infinity
  let sum = 0
  for (let at = 0; at < want.length; at += vocab) {
    const [p, q] = [logSoftmax(want, at, vocab), logSoftmax(got, at, vocab)]
    for (let i = 0; i < vocab; i++) sum += Math.exp(p[i]!) * (p[i]! - q[i]!)
  }
  return (sum * vocab) / want.length
}

function logSoftmax(logits: Float32Array, at: number, vocab: number): Float64Array {
  const row = logits.subarray(at, at + vocab)
  const top = row.reduce((most, v) => Math.max(most, v), -Infinity)
  const log = Math.log(row.reduce((sum, v) => sum + Math.exp(v - top), 0)) + top
  return Float64Array.from(row, (v) => v - log)
}
