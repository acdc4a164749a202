import { OctetError } from '@octet-llm/core'

import type { PageTable, SequenceId } from './pages.js'

/** A step that needs more pages than are free. */
export interface EvictionRequest {
  /** Pages that are missing, ≥ 1. */
  readonly missingPages: number
  /** Sequences that may go, in row order: those that the step keeps without new tokens. Pages that others share stay. */
  readonly candidates: readonly SequenceId[]
}

/**
 * Called when pages run out, before anything has changed. Names sequences to forget, the fewer the better; it is asked again
 * while pages are missing. None: the step is refused with `KV_CACHE_FULL`, and nobody was forgotten. It must not use the
 * cache itself.
 */
export type EvictionHook = (request: EvictionRequest) => Iterable<SequenceId>

/** What a step does to the batch. */
export interface StepPlan {
  readonly remove: readonly SequenceId[]
  /** Sequence of each row, in the step. */
  readonly order: readonly SequenceId[]
  /** Cached tokens of each row before it. */
  readonly before: readonly number[]
  /** New tokens of each row. */
  readonly counts: readonly number[]
}

/** What no step may pass. */
export interface StepLimits {
  readonly maxBatchSize: number
  readonly maxSequenceLength: number
  readonly maxCtxLen: number
}

/** @throws OctetError `KV_CACHE_FULL`, `CONTEXT_TOO_LONG`, `INVALID_ARGUMENT` */
export function checkStep(table: PageTable, newTokens: ReadonlyMap<SequenceId, number>, limits: StepLimits): void {
  if (newTokens.size > limits.maxBatchSize) throw tooManySequences(newTokens.size, limits.maxBatchSize)
  for (const [id, count] of newTokens) {
    const argument = `newTokens of sequence ${id}`
    if (!Number.isSafeInteger(count) || count < 0) {
      throw new OctetError('INVALID_ARGUMENT', { op: 'preStep', argument, expected: 'a whole number of at least 0', received: String(count) })
    }
    if (count > limits.maxCtxLen) {
      throw new OctetError('CONTEXT_TOO_LONG', { op: 'preStep', argument, expected: `at most ${limits.maxCtxLen}`, received: String(count), hint: 'split the prompt into chunks or raise maxCtxLen' })
    }
    const length = table.length(id) + count
    if (length > limits.maxSequenceLength) {
      throw new OctetError('KV_CACHE_FULL', {
        op: 'preStep',
        argument: `sequence ${id}`,
        expected: `at most ${limits.maxSequenceLength} tokens`,
        received: String(length),
        hint: 'create the cache with a larger maxSequenceLength',
      })
    }
  }
}

export function tooManySequences(received: number, most: number): OctetError {
  return new OctetError('KV_CACHE_FULL', {
    op: 'InferenceParams',
    argument: 'sequences',
    expected: `at most ${most}`,
    received: String(received),
    hint: 'remove a sequence or raise maxBatchSize',
  })
}

/**
 * Who leaves, who stays and who arrives. Nothing is changed; whether the pages suffice shows when the plan is applied.
 * @param current sequence of each row so far
 * @throws OctetError `INVALID_ARGUMENT` for an eviction of anybody but a candidate; what the hook throws
 */
export function planStep(table: PageTable, current: readonly SequenceId[], newTokens: ReadonlyMap<SequenceId, number>, evict?: EvictionHook): StepPlan {
  const gone = current.filter((id) => !newTokens.has(id))
  const evicted = evict === undefined ? new Set<SequenceId>() : evictions(table, gone, current, newTokens, evict)
  const order = [...current.filter((id) => newTokens.has(id) && !evicted.has(id)), ...[...newTokens.keys()].filter((id) => !table.has(id))]
  return { remove: [...gone, ...evicted], order, before: order.map((id) => table.length(id)), counts: order.map((id) => newTokens.get(id)!) }
}

function evictions(table: PageTable, gone: readonly SequenceId[], current: readonly SequenceId[], newTokens: ReadonlyMap<SequenceId, number>, evict: EvictionHook): Set<SequenceId> {
  const evicted = new Set<SequenceId>()
  for (;;) {
    const missingPages = table.cost({ remove: [...gone, ...evicted], append: newTokens }) - table.freePages
    const candidates = current.filter((id) => newTokens.get(id) === 0 && !evicted.has(id))
    if (missingPages <= 0 || candidates.length === 0) return evicted
    const named = [...evict({ missingPages, candidates })]
    if (named.length === 0) return evicted
    for (const id of named) {
      if (!candidates.includes(id)) {
        throw new OctetError('INVALID_ARGUMENT', { op: 'preStep', argument: 'evict', expected: `some of the candidates [${candidates.join(', ')}]`, received: String(id) })
      }
      evicted.add(id)
    }
  }
}
