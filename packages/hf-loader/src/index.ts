export * from './config/index.js'
export * from './safetensors/index.js'
export { openTorchBin, type TorchBinFile, type TorchTensor } from './torch-bin/index.js'
export { loadTokenizer, type LoadTokenizerOptions } from './tokenizer/index.js'
