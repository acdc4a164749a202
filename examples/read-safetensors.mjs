// Only the reader: one import, no third-party code.
import { openSafetensors } from '@octet-llm/hf-loader/safetensors'

const path = './variants/gemma2/model.safetensors'
// #region snippet
const file = await openSafetensors(path)
console.log(file.tensors.get('model.norm.weight')) // { dtype, shape, byteLength, … }
const values = await file.readFloat32('model.norm.weight') // read() gives the bytes
await file.close()
// #endregion
console.log(values.subarray(0, 4))
