export { checkLoraAdapter, openLoraAdapter, type LoraAdapter, type LoraModule } from './adapter.js'
export type { LoraConfig } from './config.js'
