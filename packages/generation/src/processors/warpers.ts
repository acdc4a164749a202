/**
 * The processors that only sampling uses. Each bans (`-Infinity`) what it removes from one row of scores [V];
 * `minKeep` is the least number of tokens that stay.
 */
import { logSoftmax, softmax, topIndices } from '../sampling/index.js'
import type { LogitsProcessor } from './types.js'

/** Tokens that a top-h choice looks at. */
const TOP_H_CANDIDATES = 100

/** s / t. */
export function temperature(value: number): LogitsProcessor {
  const t = Math.fround(value)
  return function temperature(scores) {
    for (let i = 0; i < scores.length; i++) scores[i] = scores[i]! / t
  }
}

/** The k-th largest score: everything below it goes, ties with it stay. */
function kthLargest(scores: Float32Array, k: number): number {
  const best = topIndices(scores, Math.min(k, scores.length))
  return best.length === 0 ? -Infinity : scores[best[best.length - 1]!]!
}

/** Keeps the k largest scores and all ties with the k-th. */
export function topK(k: number, minKeep = 1): LogitsProcessor {
  const keep = Math.max(k, minKeep)
  return function topK(scores) {
    if (keep >= scores.length) return
    const threshold = kthLargest(scores, keep)
    for (let i = 0; i < scores.length; i++) if (scores[i]! < threshold) scores[i] = -Infinity
  }
}

/**
 * Nucleus: in ascending order (ties: lowest index first) removes tokens while the cumulative probability is
 * ≤ 1 − p. (Holtzman et al., 2019)
 */
export function topP(p: number, minKeep = 1): LogitsProcessor {
  const limit = Math.fround(1 - p)
  return function topP(scores) {
    const probs = softmax(scores)
    // Tokens below (1-p)/V sum to less than 1-p, so they all go: only the rest is worth sorting.
    const floor = limit / scores.length
    let order: number[] = []
    let cumulative = 0
    for (let i = 0; i < probs.length; i++) {
      if (probs[i]! >= floor && probs[i]! > 0) order.push(i)
      else cumulative += probs[i]!
    }
    if (order.length < minKeep) {
      order = Array.from(scores.keys())
      cumulative = 0
    }
    order.sort((a, b) => (scores[a] === scores[b] ? 0 : scores[a]! - scores[b]!))
    const keep = new Uint8Array(scores.length)
    for (let k = 0; k < order.length; k++) {
      cumulative += probs[order[k]!]!
      if (Math.fround(cumulative) > limit || k >= order.length - minKeep) keep[order[k]!] = 1
    }
    banUnkept(scores, keep)
  }
}

function banUnkept(scores: Float32Array, keep: Uint8Array): void {
  for (let i = 0; i < scores.length; i++) if (keep[i] === 0) scores[i] = -Infinity
}

/** Keeps tokens with probability ≥ p × that of the most likely one. (Nguyen et al., 2024) */
export function minP(p: number, minKeep = 1): LogitsProcessor {
  return function minP(scores) {
    const probs = softmax(scores)
    let top = 0
    for (const q of probs) if (q > top) top = q
    const threshold = Math.fround(Math.fround(p) * top)
    const always = new Set(minKeep > 1 ? topIndices(scores, minKeep) : [])
    for (let i = 0; i < scores.length; i++) {
      if (probs[i]! < threshold && !always.has(i)) scores[i] = -Infinity
    }
  }
}

/**
 * Of the 100 best tokens keeps, best first, those whose cumulative entropy stays ≤ h × the entropy of the 100;
 * the best one always. (Potraghloo et al., Top-H, 2025)
 */
export function topH(h: number): LogitsProcessor {
  return function topH(scores) {
    const best = topIndices(scores, Math.min(TOP_H_CANDIDATES, scores.length))
    const probs = softmax(Float32Array.from(best, (i) => scores[i]!))
    const terms = Array.from(probs, (q) => (q > 0 ? -q * Math.log(q) : 0))
    const tau = terms.reduce((a, b) => a + b, 0) * h
    const keep = new Uint8Array(scores.length)
    let cumulative = 0
    best.forEach((index, rank) => {
      cumulative += terms[rank]!
      if (rank === 0 || (cumulative <= tau && probs[rank]! > 0)) keep[index] = 1
    })
    banUnkept(scores, keep)
  }
}

function entropyOf(logProbs: Float32Array): number {
  let entropy = 0
  for (const lp of logProbs) if (lp > -Infinity) entropy -= lp * Math.exp(lp)
  return entropy
}

/**
 * Keeps the tokens whose information is closest to the entropy, until their mass reaches `mass`.
 * (Meister et al., Locally Typical Sampling, 2022)
 */
export function typicalP(mass: number, minKeep = 1): LogitsProcessor {
  const limit = Math.fround(mass)
  return function typicalP(scores) {
    const logProbs = logSoftmax(scores)
    const entropy = Math.fround(entropyOf(logProbs))
    const shifted = logProbs.map((lp) => Math.abs(-lp - entropy))
    const order: number[] = []
    for (let i = 0; i < scores.length; i++) if (scores[i]! > -Infinity) order.push(i)
    order.sort((a, b) => shifted[a]! - shifted[b]!)
    let cumulative = 0
    let last = 0
    for (const i of order) {
      cumulative += Math.exp(logProbs[i]!)
      if (Math.fround(cumulative) < limit) last++
    }
    if (last >= order.length) return
    const threshold = shifted[order[last]!]!
    for (let k = minKeep; k < order.length; k++) {
      if (shifted[order[k]!]! > threshold) scores[order[k]!] = -Infinity
    }
  }
}

/** Bans tokens of probability < `cutoff` that are also below the `minKeep`-th best. */
function cut(scores: Float32Array, cutoff: number, minKeep: number): void {
  const probs = softmax(scores)
  const threshold = kthLargest(scores, minKeep)
  const limit = Math.fround(cutoff)
  for (let i = 0; i < scores.length; i++) {
    if (probs[i]! < limit && scores[i]! < threshold) scores[i] = -Infinity
  }
}

/** Keeps tokens of probability ≥ epsilon. (Hewitt et al., Truncation Sampling, 2022) */
export function epsilonCutoff(epsilon: number, minKeep = 1): LogitsProcessor {
  return function epsilonCutoff(scores) {
    cut(scores, epsilon, minKeep)
  }
}

/** Keeps tokens of probability ≥ min(epsilon, √epsilon · e^−entropy). (Hewitt et al., Truncation Sampling, 2022) */
export function etaCutoff(epsilon: number, minKeep = 1): LogitsProcessor {
  return function etaCutoff(scores) {
    const entropy = entropyOf(logSoftmax(scores))
    cut(scores, Math.min(epsilon, Math.sqrt(epsilon) * Math.exp(-entropy)), minKeep)
  }
}
