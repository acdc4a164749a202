export { openSafetensors, type SafetensorsFile } from './file.js'
export type { SafetensorsTensor } from './header.js'
export { writeSafetensors, type TensorData, type TensorEntry, type WriteOptions } from './write.js'
export { readTensor, readTensorFloat32, type ChunkOptions, type ReadOptions } from '../io/read-tensor.js'
