import type { GenerationPlan } from '../plan.js'
import type { Engine } from './engine.js'
import type { EngineHandle } from './entry.js'

/** Where the engine of a run comes from and goes to. A run that throws disposes of its engine instead. */
export interface EngineSource {
  acquire(plan: GenerationPlan): Engine
  /** @param handles the run's requests; those that are not done end now */
  release(engine: Engine, handles: readonly EngineHandle[]): void
}
