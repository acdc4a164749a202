export { checkLoraAdapter, openLoraAdapter, type LoraAdapter, type LoraModule } from './adapter.js'
export { planHead, type HeadPlan } from './head.js'
export type { LoraConfig } from './config.js'
