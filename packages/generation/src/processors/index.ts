/**
 * Logits processors: pure functions that edit one row of scores [V] in place, with transformers' semantics and order.
 * This entry point imports nothing but `@octet-llm/core`.
 */
export * from './build.js'
export * from './constraints.js'
export * from './penalties.js'
export * from './types.js'
export * from './warpers.js'
