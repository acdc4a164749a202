export { openTorchBin, type TorchBinFile, type TorchTensor } from './file.js'
export { readTensor, readTensorFloat32, type ChunkOptions, type ReadOptions } from '../io/read-tensor.js'
