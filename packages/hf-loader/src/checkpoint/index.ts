export { assign, sharesEmbedding, type AssignOptions, type AssignProgress, type AssignSummary } from './assign.js'
export { openCheckpoint, type Checkpoint, type CheckpointKind, type Shard } from './open.js'
export { planAssignment, type Plan, type PlannedTensor, type PlanOptions } from './plan.js'
export { saveCheckpoint, type SaveOptions } from './save.js'
