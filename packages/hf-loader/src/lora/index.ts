export { checkLoraAdapter, openLoraAdapter, separatesHead, type LoraAdapter, type LoraModule } from './adapter.js'
export type { LoraConfig } from './config.js'
